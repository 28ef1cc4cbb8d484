"""What volumes need of the hypervisor's driver."""

from __future__ import annotations

from typing import Protocol

from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import LiveCopy, OnlineGrow, need
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.spec import VolumeRef


class Guests(Protocol):
    """Says which VM uses a volume."""

    @property
    def info(self) -> DriverInfo:
        """What the driver states."""

    def running(self, vm_id: str) -> bool:
        """Whether the VM executes here (or is paused in memory)."""

    def using(self, volume_id: str) -> str | None:
        """UUID of the executing VM that has the volume attached, if any."""


def check_unused(guests: Guests, ref: VolumeRef) -> None:
    """Raises FailedPreconditionError (VOLUME_IN_USE) while a VM executes here with the volume."""
    vm_id = guests.using(ref.volume_id)
    if vm_id and guests.running(vm_id):
        raise FailedPreconditionError(
            f"volume {ref.volume_id} is used by VM {vm_id} (stop it or detach the volume first)",
            "VOLUME_IN_USE",
            {"volume": ref.volume_id, "vm": vm_id},
        )


def online_grow(guests: Guests) -> OnlineGrow:
    """The part that grows disks of executing VMs. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED."""
    need(guests, Function.ONLINE_GROW)
    assert isinstance(guests, OnlineGrow)
    return guests


def live_copy(guests: Guests) -> LiveCopy:
    """The part that copies disks of executing VMs. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED."""
    need(guests, Function.ONLINE_COPY)
    assert isinstance(guests, LiveCopy)
    return guests
