"""Snapshots as rows, and how they are deleted."""

from __future__ import annotations

from ostler_control import events
from ostler_control.database import session
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import Snapshot, SnapshotSchedule
from ostler_control.operations import Run


def load(snapshot_id: str) -> Snapshot:
    """A snapshot's row."""
    with session():
        return Snapshot.get_by_id(snapshot_id)


def load_or_none(snapshot_id: str) -> Snapshot | None:
    """A snapshot's row, or None when it is gone."""
    with session():
        return Snapshot.get_or_none(Snapshot.id == snapshot_id)


def record_last_error(snapshot: Snapshot, error: str) -> None:
    """Shows in the snapshot's schedule, if it has one, how its last run failed; "": it succeeded."""
    if snapshot.schedule_id:
        SnapshotSchedule.update(last_error=error).where(SnapshotSchedule.id == snapshot.schedule_id).execute()


def destroy(snapshot: Snapshot, run: Run) -> None:
    """Deletes the row of a snapshot whose file is gone, and its key, which is recorded as an event: within the caller's
    transaction."""
    Snapshot.delete().where(Snapshot.id == snapshot.id).execute()
    if snapshot.passphrase_id:
        delete_passphrase(snapshot.passphrase_id)
        events.record(
            "snapshot.key.destroy",
            events.Outcome.SUCCEEDED,
            run.user,
            "snapshot",
            snapshot.id,
            snapshot.name,
            f"its file is gone, and key {snapshot.passphrase_id} is destroyed",
            operation_id=run.id,
            account_id=snapshot.account_id,
        )
