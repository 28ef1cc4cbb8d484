"""Volumes as rows, with the VMs that they are attached to."""

from __future__ import annotations

from typing import Any

from ostler_common.errors import AbortedError, FailedPreconditionError

from ostler_control.database import session
from ostler_control.hosts.rows import is_up, silent
from ostler_control.models import Host, Vm, Volume
from ostler_control.operations.records import lock_row


def load(volume_id: str) -> Any:
    """A volume's row."""
    with session():
        return Volume.get_by_id(volume_id)


def load_or_none(volume_id: str) -> Any | None:
    """A volume's row, or None when it is gone."""
    with session():
        return Volume.get_or_none(Volume.id == volume_id)


def vm_of(volume: Any) -> Any | None:
    """The VM that a volume is attached to, or None."""
    return Vm.get_or_none(Vm.id == volume.vm_id) if volume.vm_id else None


def lock_with_vm(volume: Any) -> tuple[Any | None, Any]:
    """`take` for a volume and the VM that it is attached to, if any."""
    seen = load_or_none(volume.id) or volume
    vm = vm_of(seen)
    taken = lock_row(vm) if vm is not None else None
    fresh = lock_row(volume)
    if fresh.vm_id != seen.vm_id:
        raise AbortedError(f"volume {volume.name} was attached or detached meanwhile; try again", "CHANGED_MEANWHILE")
    return taken, fresh


def _and_yet(vm: Any) -> str:
    return f", and its host says that it is {vm.power_state}" if vm.state == "stopped" else ""


def running_host(vm: Any) -> Any | None:
    """The host on which a VM runs, or None when it is stopped.

    Raises FailedPreconditionError: HOST_SILENT, or VM_STATE when it is neither (half made, lost on its way, or started
    by other means than Ostler's).
    """
    if vm.state == "stopped" and vm.power_state not in ("running", "paused"):
        return None
    if vm.state != "running":
        raise FailedPreconditionError(
            f"VM {vm.name} is {vm.state}{_and_yet(vm)}; wait until it runs or is stopped",
            "VM_STATE",
            {"vm": vm.id, "state": vm.state},
        )
    host = Host.get_by_id(vm.host_id)
    if not is_up(host):
        raise silent(host, f"and VM {vm.name} may be running there")
    return host
