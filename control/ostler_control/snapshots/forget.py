"""Forgetting a snapshot whose storage is lost for good."""

from __future__ import annotations

from ostler_control.models import Snapshot
from ostler_control.operations import lock_row
from ostler_control.volumes.forget import check_pool_lost, forget_snapshot


def forget(snapshot: Snapshot, actor: str, *, validate_only: bool = False) -> None:
    """Deletes the row and the key of a snapshot whose pool no host reaches: within the caller's transaction.

    Raises AbortedError RESOURCE_BUSY; FailedPreconditionError POOL_REACHED when a host could delete the file.
    """
    snapshot = lock_row(snapshot)
    check_pool_lost(snapshot.pool, f"snapshot {snapshot.name}", "ostler snapshot delete")
    if not validate_only:
        forget_snapshot(snapshot, actor)
