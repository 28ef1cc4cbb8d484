"""Snapshots of VMs as rows, and how they are deleted."""

from __future__ import annotations

from ostler_common.errors import FailedPreconditionError

from ostler_control.database import session
from ostler_control.models import ScheduledVmSnapshot, Snapshot, VmSnapshot, VmSnapshotDisk, VmSnapshotSchedule
from ostler_control.operations import Run, lock_row
from ostler_control.snapshots.rows import destroy as destroy_snapshot
from ostler_control.states import SnapshotState
from ostler_control.vm_snapshots import memory
from ostler_control.vms import firmware_states


def load_or_none(vm_snapshot_id: str) -> VmSnapshot | None:
    """The row, or None when it is gone."""
    with session():
        return VmSnapshot.get_or_none(VmSnapshot.id == vm_snapshot_id)


def disks_of(vm_snapshot_id: str) -> list[VmSnapshotDisk]:
    """The disks of a VM's snapshot, by slot."""
    with session():
        query = VmSnapshotDisk.select().where(VmSnapshotDisk.vm_snapshot == vm_snapshot_id)
        return list(query.order_by(VmSnapshotDisk.slot))


def snapshots_of(vm_snapshot_id: str) -> list[Snapshot]:
    """The snapshots of its disks, by slot; those that were lost are left out."""
    with session():
        query = Snapshot.select().join(VmSnapshotDisk).where(VmSnapshotDisk.vm_snapshot == vm_snapshot_id)
        return list(query.order_by(VmSnapshotDisk.slot))


def lock_ready(row: VmSnapshot) -> VmSnapshot:
    """Locks a VM's snapshot to read from it.

    Raises AbortedError RESOURCE_BUSY; FailedPreconditionError SNAPSHOT_STATE unless it is complete.
    """
    row = lock_row(row)
    if row.state != SnapshotState.READY:
        why = f" ({row.state_reason})" if row.state_reason else ""
        raise FailedPreconditionError(
            f"snapshot {row.name} of VM {row.vm_name} is {row.state}{why}; use another one "
            f"(ostler vm snapshot list --vm {row.vm_name})",
            "SNAPSHOT_STATE",
            {"vm_snapshot": row.id, "state": row.state},
        )
    return row


def set_state(vm_snapshot_id: str, state: SnapshotState, reason: str = "") -> None:
    """Records where it stands, and its disks' snapshots with it: within the caller's transaction."""
    VmSnapshot.update(state=state, state_reason=reason).where(VmSnapshot.id == vm_snapshot_id).execute()
    ids = [snapshot.id for snapshot in snapshots_of(vm_snapshot_id)]
    Snapshot.update(state=state, state_reason=reason).where(Snapshot.id.in_(ids)).execute()


def record_last_error(vm_snapshot_id: str, error: str) -> None:
    """Shows in the schedule that took the snapshot, if one did, how its last run failed."""
    taker = ScheduledVmSnapshot.select(ScheduledVmSnapshot.schedule)
    taker = taker.where(ScheduledVmSnapshot.vm_snapshot == vm_snapshot_id)
    VmSnapshotSchedule.update(last_error=error).where(VmSnapshotSchedule.id.in_(taker)).execute()


def destroy(row: VmSnapshot, run: Run) -> None:
    """Deletes the rows of a VM's snapshot whose files are gone, and its keys, each recorded as an event: within the
    caller's transaction."""
    snapshots, kept = snapshots_of(row.id), memory.of_snapshot(row.id)
    if kept is not None:
        memory.destroy(row, kept, run)
    firmware_states.forget_of_snapshot(row.id)
    VmSnapshot.delete().where(VmSnapshot.id == row.id).execute()
    for snapshot in snapshots:
        destroy_snapshot(snapshot, run)
