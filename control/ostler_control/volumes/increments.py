"""Which files the file of a backup's disk needs to be read: those that it builds on."""

from __future__ import annotations

from ostler_control.database import session
from ostler_control.models import Backup, BackupDisk, BackupIncrement


def parents_of(disk: BackupDisk) -> list[BackupDisk]:
    """What a disk's file builds on, the nearest first; nothing for one that has the whole disk."""
    found: list[BackupDisk] = []
    while (parent := parent_of(found[-1] if found else disk)) is not None:
        found.append(parent)
    return found


def parent_of(disk: BackupDisk) -> BackupDisk | None:
    """The disk, with its backup, that this one builds on; None if its file has everything."""
    above = BackupIncrement.select(BackupIncrement.parent).where(BackupIncrement.disk == disk.id)
    with session():
        return BackupDisk.select(BackupDisk, Backup).join(Backup).where(BackupDisk.id.in_(above)).get_or_none()
