"""Volumes as rows, with the VMs that they are attached to."""

from __future__ import annotations

from ostler_common.errors import AbortedError, FailedPreconditionError

from ostler_control.database import session
from ostler_control.hosts.rows import is_up, silent
from ostler_control.models import BackupDisk, Host, Snapshot, Vm, VmSnapshotMemory, Volume, VolumeFile
from ostler_control.operations.records import lock_row
from ostler_control.states import VmState

# Rows that name a file in a pool, each with the key that opens it.
FileRow = Volume | VolumeFile | Snapshot | BackupDisk | VmSnapshotMemory


def load(volume_id: str) -> Volume:
    """A volume's row."""
    with session():
        return Volume.get_by_id(volume_id)


def load_or_none(volume_id: str) -> Volume | None:
    """A volume's row, or None when it is gone."""
    with session():
        return Volume.get_or_none(Volume.id == volume_id)


def vm_of(volume: Volume) -> Vm | None:
    """The VM that a volume is attached to, or None."""
    return Vm.get_or_none(Vm.id == volume.vm_id) if volume.vm_id else None


def lock_with_vm(volume: Volume) -> tuple[Vm | None, Volume]:
    """Locks a volume's row and that of the VM it is attached to, if any; returns both as they are now.

    Raises AbortedError: RESOURCE_BUSY, or CHANGED_MEANWHILE when the volume was attached or detached just now.
    """
    seen = load_or_none(volume.id) or volume
    attached_to = vm_of(seen)
    vm = lock_row(attached_to) if attached_to is not None else None
    locked = lock_row(volume)
    if locked.vm_id != seen.vm_id:
        raise AbortedError(f"volume {volume.name} was attached or detached meanwhile; try again", "CHANGED_MEANWHILE")
    return vm, locked


def running_host(vm: Vm) -> Host | None:
    """The host on which a VM runs, or None when it is stopped.

    Raises FailedPreconditionError: HOST_SILENT, or VM_STATE when the VM neither runs nor is stopped (it is being
    created, lost during a migration, or started outside of Ostler).
    """
    if vm.state == VmState.STOPPED and not vm.power_state.is_executing:
        return None
    if vm.state != VmState.RUNNING:
        reported = f", but its host reports it as {vm.power_state}" if vm.state == VmState.STOPPED else ""
        raise FailedPreconditionError(
            f"VM {vm.name} is {vm.state}{reported}; wait until it runs or is stopped",
            "VM_STATE",
            {"vm": vm.id, "state": vm.state},
        )
    host = Host.get_by_id(vm.host_id)
    if not is_up(host):
        raise silent(host, f"and VM {vm.name} may be running there")
    return host
