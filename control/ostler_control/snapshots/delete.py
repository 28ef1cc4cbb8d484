"""Deleting a snapshot: its file first, then its row and its key together."""

from __future__ import annotations

from typing import Any

from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import has_hosts
from ostler_control.models import Operation, Snapshot
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.snapshots.create import delete_file
from ostler_control.snapshots.rows import destroy, load, load_or_none, note


def delete(snapshot: Any, user: str) -> Operation:
    """Records the operation that deletes a snapshot, whole or half made.

    Raises AbortedError RESOURCE_BUSY, FailedPreconditionError NO_CAPABLE_HOST.
    """
    snapshot = lock_row(snapshot)
    if has_hosts(snapshot.pool_id):
        choose_host(snapshot.pool, False, lambda _: 0)
    operation = record_operation("snapshot.delete", snapshot, user, {})
    Snapshot.update(state="deleting", state_reason="").where(Snapshot.id == snapshot.id).execute()
    return operation


@workflow("snapshot.delete")
def _delete(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("settle", lambda: _settle(run, undo))
        host_id: str = run.step("choose", lambda: _choose(run))
        if host_id:
            run.step("remove", lambda: delete_file(run, host_id))
        undo.clear()
        run.always("forget", lambda: _forget(run))  # the file is gone: there is no way back any more


def _choose(run: Run) -> str:
    """The host to delete the file; "" when none of the fleet reaches its pool any more, and so nobody could open it."""
    with session():
        snapshot = load_or_none(run.resource_id)
        if snapshot is None or not has_hosts(snapshot.pool_id):
            return ""
        host_id: str = choose_host(snapshot.pool, False, run.agents.busy).id
        return host_id


def _forget(run: Run) -> None:
    with transaction():
        snapshot = load_or_none(run.resource_id)
        if snapshot is not None:
            destroy(snapshot, run)


def _settle(run: Run, undo: Undo) -> None:
    with transaction():
        note(load(run.resource_id), f"not deleted: {undo.error}")
        Snapshot.update(state="failed", state_reason=f"not deleted: {undo.error}").where(
            Snapshot.id == run.resource_id
        ).execute()
