"""What volume operations need of the hypervisor driver."""

from __future__ import annotations

from typing import Protocol

from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Backup, IncrementalBackup, LiveCopy, OnlineGrow, need
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.hypervisors.memory import MemorySnapshot
from ostler_agent.spec import VmInfo, VolumeRef


class VmRuntime(Protocol):
    """The part of a driver that volume operations use."""

    @property
    def info(self) -> DriverInfo:
        """What the driver states about itself."""

    def vm(self, vm_id: str) -> VmInfo:
        """Returns a VM's current state."""

    def running(self, vm_id: str) -> bool:
        """Whether the VM is running on this host (or paused in memory)."""

    def using(self, volume_id: str) -> str | None:
        """UUID of the running VM that has the volume attached, if any."""


def check_unused(runtime: VmRuntime, ref: VolumeRef) -> None:
    """Raises FailedPreconditionError (VOLUME_IN_USE) if a running VM uses the volume."""
    vm_id = runtime.using(ref.volume_id)
    if vm_id and runtime.running(vm_id):
        raise FailedPreconditionError(
            f"volume {ref.volume_id} is used by VM {vm_id} (stop it or detach the volume first)",
            "VOLUME_IN_USE",
            {"volume": ref.volume_id, "vm": vm_id},
        )


def online_grow(runtime: VmRuntime) -> OnlineGrow:
    """Returns the driver's part that grows running disks. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED."""
    need(runtime, Function.ONLINE_GROW)
    assert isinstance(runtime, OnlineGrow)
    return runtime


def live_copy(runtime: VmRuntime) -> LiveCopy:
    """Returns the driver's part that copies running disks. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED."""
    need(runtime, Function.ONLINE_COPY)
    assert isinstance(runtime, LiveCopy)
    return runtime


def live_backup(runtime: VmRuntime) -> Backup:
    """Returns the driver's part that copies disks together. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED."""
    need(runtime, Function.ONLINE_BACKUP)
    assert isinstance(runtime, Backup)
    return runtime


def increments_or_none(runtime: VmRuntime) -> IncrementalBackup | None:
    """Returns the driver's part that copies only what was written since a backup; None if it does not state that."""
    if Function.INCREMENTAL_BACKUP not in runtime.info.functions:
        return None
    assert isinstance(runtime, IncrementalBackup)
    return runtime


def live_memory(runtime: VmRuntime) -> MemorySnapshot:
    """Returns the driver's part that keeps memory. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED."""
    need(runtime, Function.MEMORY_SNAPSHOT)
    assert isinstance(runtime, MemorySnapshot)
    return runtime
