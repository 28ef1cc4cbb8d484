"""Backups that build on each other: a disk's file has only what was written since another backup of the same disk.

What a backup builds on stays as long as it does. A chain ends after some increments with a backup of the whole disk,
so that old backups can go, and a restore need not read many files.
"""

from __future__ import annotations

from collections.abc import Sequence

from ostler_common.errors import FailedPreconditionError

from ostler_control.database import locked
from ostler_control.models import Backup, BackupDisk, BackupIncrement
from ostler_control.states import BackupState
from ostler_control.volumes.increments import parents_of

MAX_INCREMENTS = 14
REQUESTED = "a full backup was asked for"
NO_PARENT = "it is the first complete backup of this disk in this store"
LONG_ENOUGH = f"{MAX_INCREMENTS} increments build on the last full backup"
NOT_STATED = "hypervisors of this type copy whole disks only"
OLD_AGENT = "the agent on the host is of a release that makes only full backups"
_NAMED = 5


def record_parents(disks: Sequence[BackupDisk], *, why_full: str) -> None:
    """Records what the disks of a new backup are to build on, and locks that: within the caller's transaction.

    why_full: why they build on nothing, "" if they may.
    """
    for disk in disks:
        parent, reason = (None, why_full) if why_full else _parent(disk)
        BackupIncrement.create(disk=disk, parent=parent, full_reason=reason)


def _parent(disk: BackupDisk) -> tuple[BackupDisk | None, str]:
    """The disk of the latest complete backup to build on, or why there is none."""
    same = (BackupDisk.volume_id == disk.volume_id) & (BackupDisk.pool == disk.pool_id)
    complete = (Backup.state == BackupState.READY) & (Backup.verify_error == "")
    query = BackupDisk.select(BackupDisk, Backup).join(Backup).where(same & complete)
    latest = query.order_by(Backup.create_time.desc(), Backup.id).first()
    if latest is None:
        return None, NO_PARENT
    # It must not be deleted between this look and the caller's commit.
    held = locked(Backup.select().where(Backup.id == latest.backup_id)).get_or_none()
    if held is None or held.state != BackupState.READY:
        return None, f"backup {latest.backup.name}, the last one, is being deleted"
    chain = [latest, *parents_of(latest)]
    for one in chain[1:]:
        if one.backup.verify_error:
            return None, f"backup {one.backup.name}, on which the last one builds, is damaged"
    return (None, LONG_ENOUGH) if len(chain) > MAX_INCREMENTS else (latest, "")


def record_full(disk: BackupDisk, reason: str) -> None:
    """Records that a disk was copied whole, and why."""
    BackupIncrement.update(parent=None, full_reason=reason).where(BackupIncrement.disk == disk.id).execute()


def needed() -> set[str]:
    """Ids of the backups that others build on."""
    query = BackupDisk.select(BackupDisk.backup).join(BackupIncrement, on=BackupIncrement.parent == BackupDisk.id)
    return {row.backup_id for row in query}


def check_unneeded(backup: Backup) -> None:
    """Raises FailedPreconditionError BACKUP_NEEDED for a backup that others build on."""
    own = BackupDisk.select(BackupDisk.id).where(BackupDisk.backup == backup)
    above = BackupDisk.select(BackupDisk.backup).join(BackupIncrement, on=BackupIncrement.disk == BackupDisk.id)
    query = Backup.select().where(Backup.id.in_(above.where(BackupIncrement.parent.in_(own))))
    names = [row.name for row in query.order_by(Backup.create_time).limit(_NAMED + 1)]
    if names:
        more = " and more" if len(names) > _NAMED else ""
        raise FailedPreconditionError(
            f"backup {backup.name} is needed: {', '.join(names[:_NAMED])}{more} builds on it; delete that first",
            "BACKUP_NEEDED",
            {"backup": backup.id},
        )
