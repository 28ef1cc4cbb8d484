"""Deleting a snapshot: its file first, then its row and its key together."""

from __future__ import annotations

from ostler_common.errors import FailedPreconditionError

from ostler_control.database import transaction
from ostler_control.hosts.rows import has_hosts
from ostler_control.models import Operation, Snapshot, VmSnapshot, VmSnapshotDisk
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.snapshots.create import delete_file
from ostler_control.snapshots.rows import destroy, load, load_or_none, record_last_error
from ostler_control.states import SnapshotState
from ostler_control.volumes import host_jobs


def delete(snapshot: Snapshot, user: str) -> Operation:
    """Records the operation that deletes a snapshot, in whatever state it is.

    Raises AbortedError RESOURCE_BUSY, FailedPreconditionError NO_CAPABLE_HOST, PART_OF_VM_SNAPSHOT.
    """
    snapshot = lock_row(snapshot)
    _check_on_its_own(snapshot)
    if has_hosts(snapshot.pool_id):
        host_jobs.check_host_available(snapshot.pool, False)
    operation = record_operation("snapshot.delete", snapshot, user, {})
    Snapshot.update(state=SnapshotState.DELETING, state_reason="").where(Snapshot.id == snapshot.id).execute()
    return operation


def _check_on_its_own(snapshot: Snapshot) -> None:
    whole = VmSnapshot.get_or_none(
        VmSnapshot.id.in_(VmSnapshotDisk.select(VmSnapshotDisk.vm_snapshot).where(VmSnapshotDisk.snapshot == snapshot))
    )
    if whole is not None:
        raise FailedPreconditionError(
            f"snapshot {snapshot.name} is part of VM snapshot {whole.name}; delete that as a whole (ostler vm snapshot "
            f"delete {whole.name})",
            "PART_OF_VM_SNAPSHOT",
            {"snapshot": snapshot.id, "vm_snapshot": whole.id},
        )


@workflow("snapshot.delete")
def _delete(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        host_id: str = run.step("choose", lambda: host_jobs.choose_to_delete(run, load_or_none(run.resource_id)))
        if host_id:
            run.step("remove", lambda: delete_file(run, host_id))
        undo.clear()
        run.always("forget", lambda: _forget(run))  # the file is gone: nothing can be undone any more


def _forget(run: Run) -> None:
    with transaction():
        snapshot = load_or_none(run.resource_id)
        if snapshot is not None:
            destroy(snapshot, run)


def _record_failure(run: Run, undo: Undo) -> None:
    reason = f"not deleted: {undo.error}"
    with transaction():
        record_last_error(load(run.resource_id), reason)
        Snapshot.update(state=SnapshotState.FAILED, state_reason=reason).where(Snapshot.id == run.resource_id).execute()
