"""Deleting a VM's snapshot: the files of all its disks first, then its rows and its keys together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ostler_control.database import transaction
from ostler_control.hosts.rows import has_hosts
from ostler_control.models import Operation, VmSnapshot
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.snapshots.rows import load_or_none as load_snapshot_or_none
from ostler_control.states import SnapshotState
from ostler_control.vm_snapshots import memory
from ostler_control.vm_snapshots.create import delete_file, delete_memory
from ostler_control.vm_snapshots.rows import destroy, load_or_none, record_last_error, set_state, snapshots_of
from ostler_control.volumes import host_jobs


@dataclass(frozen=True)
class DeleteInputs:
    """snapshots: ids of those of its disks; memory_id: of its memory, "" for none."""

    snapshots: tuple[str, ...]
    memory_id: str = ""


def delete(row: VmSnapshot, user: str) -> Operation:
    """Records the operation that deletes a VM's snapshot, in whatever state it is.

    Raises AbortedError RESOURCE_BUSY, FailedPreconditionError NO_CAPABLE_HOST.
    """
    row = lock_row(row)
    snapshots = [lock_row(snapshot) for snapshot in snapshots_of(row.id)]
    for snapshot in snapshots:
        if has_hosts(snapshot.pool_id):
            host_jobs.check_host_available(snapshot.pool, False)
    kept = memory.of_snapshot(row.id)
    if kept is not None and has_hosts(kept.pool_id):
        host_jobs.check_host_available(kept.pool, False)
    inputs = DeleteInputs(tuple(snapshot.id for snapshot in snapshots), kept.id if kept is not None else "")
    operation = record_operation("vm-snapshot.delete", row, user, inputs, also=snapshots)
    set_state(row.id, SnapshotState.DELETING)
    return operation


@workflow("vm-snapshot.delete")
def _delete(run: Run) -> None:
    inputs = run.read(DeleteInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        for number, snapshot_id in enumerate(inputs.snapshots):
            host_id: str = run.step(f"choose-{number}", partial(_choose, run, snapshot_id))
            if host_id:
                run.step(f"remove-{number}", partial(delete_file, run, host_id, snapshot_id))
        if inputs.memory_id:
            host_id = run.step("choose-memory", lambda: _choose_for_memory(run, inputs.memory_id))
            if host_id:
                run.step("remove-memory", partial(delete_memory, run, host_id, inputs.memory_id))
        undo.clear()
        run.always("forget", lambda: _forget(run))  # the files are gone: nothing can be undone any more


def _choose(run: Run, snapshot_id: str) -> str:
    return host_jobs.choose_to_delete(run, load_snapshot_or_none(snapshot_id))


def _choose_for_memory(run: Run, memory_id: str) -> str:
    return host_jobs.choose_to_delete(run, memory.load_or_none(memory_id))


def _forget(run: Run) -> None:
    with transaction():
        row = load_or_none(run.resource_id)
        if row is not None:
            destroy(row, run)


def _record_failure(run: Run, undo: Undo) -> None:
    reason = f"not deleted: {undo.error}"
    with transaction():
        record_last_error(run.resource_id, reason)
        set_state(run.resource_id, SnapshotState.FAILED, reason)
