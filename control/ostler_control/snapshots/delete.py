"""Deleting a snapshot: its file first, then its row and its key together."""

from __future__ import annotations

from typing import Any

from ostler_control.database import session, transaction
from ostler_control.hosts.choose import worker
from ostler_control.hosts.rows import has_hosts
from ostler_control.models import Operation, Snapshot
from ostler_control.operations import Undo, Work, begin, take, workflow
from ostler_control.snapshots.create import remove_file
from ostler_control.snapshots.rows import destroy, load, load_or_none, note


def delete(snapshot: Any, user: str) -> Operation:
    """Records the operation that deletes a snapshot, whole or half made.

    Raises AbortedError RESOURCE_BUSY, FailedPreconditionError NO_CAPABLE_HOST.
    """
    snapshot = take(snapshot)
    if has_hosts(snapshot.pool_id):
        worker(snapshot.pool, False, lambda _: 0)
    operation = begin("snapshot.delete", snapshot, user, {})
    Snapshot.update(state="deleting", state_reason="").where(Snapshot.id == snapshot.id).execute()
    return operation


@workflow("snapshot.delete")
def _delete(work: Work) -> None:
    with work.undoing() as undo:
        undo.push("settle", lambda: _settle(work, undo))
        host_id: str = work.step("choose", lambda: _choose(work))
        if host_id:
            work.step("remove", lambda: remove_file(work, host_id))
        undo.clear()
        work.always("forget", lambda: _forget(work))  # the file is gone: there is no way back any more


def _choose(work: Work) -> str:
    """The host to delete the file; "" when none of the fleet reaches its pool any more, and so nobody could open it."""
    with session():
        snapshot = load_or_none(work.resource_id)
        if snapshot is None or not has_hosts(snapshot.pool_id):
            return ""
        host_id: str = worker(snapshot.pool, False, work.agents.busy).id
        return host_id


def _forget(work: Work) -> None:
    with transaction():
        snapshot = load_or_none(work.resource_id)
        if snapshot is not None:
            destroy(snapshot, work)


def _settle(work: Work, undo: Undo) -> None:
    with transaction():
        note(load(work.resource_id), f"not deleted: {undo.error}")
        Snapshot.update(state="failed", state_reason=f"not deleted: {undo.error}").where(
            Snapshot.id == work.resource_id
        ).execute()
