"""Backups as rows, and how they are deleted."""

from __future__ import annotations

from ostler_common.errors import FailedPreconditionError

from ostler_control import events
from ostler_control.database import session
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import Backup, BackupDisk, BackupSchedule, ScheduledBackup
from ostler_control.operations import Run, lock_row
from ostler_control.states import BackupState
from ostler_control.vm_backups import firmware_state
from ostler_control.volumes import host_jobs


def load(backup_id: str) -> Backup:
    """A backup's row."""
    with session():
        return Backup.get_by_id(backup_id)


def load_or_none(backup_id: str) -> Backup | None:
    """A backup's row, or None when it is gone."""
    with session():
        return Backup.get_or_none(Backup.id == backup_id)


def disks_of(backup_id: str) -> list[BackupDisk]:
    """The disks of a backup, by slot."""
    with session():
        query = BackupDisk.select(BackupDisk, Backup).join(Backup).where(BackupDisk.backup == backup_id)
        return list(query.order_by(BackupDisk.slot))


def load_disk(disk_id: str) -> BackupDisk:
    """A disk's row with its backup's."""
    with session():
        return BackupDisk.select(BackupDisk, Backup).join(Backup).where(BackupDisk.id == disk_id).get()


def lock_ready(backup: Backup) -> Backup:
    """Locks a backup to read from it.

    Raises AbortedError RESOURCE_BUSY; FailedPreconditionError BACKUP_STATE unless it is complete.
    """
    backup = lock_row(backup)
    if backup.state != BackupState.READY:
        why = f" ({backup.state_reason})" if backup.state_reason else ""
        raise FailedPreconditionError(
            f"backup {backup.name} is {backup.state}{why}; use another one",
            "BACKUP_STATE",
            {"backup": backup.id, "state": backup.state},
        )
    return backup


def delete_file(run: Run, host_id: str, disk_id: str) -> None:
    """Inside a step: makes the host delete a disk's file; one that is not there is a success."""
    with session():
        disk = BackupDisk.get_or_none(BackupDisk.id == disk_id)
    if disk is not None:
        host_jobs.delete_file(run, host_id, disk)


def record_last_error(backup_id: str, error: str) -> None:
    """Shows in the schedule that took the backup, if one did, how its last run failed."""
    taker = ScheduledBackup.select(ScheduledBackup.schedule).where(ScheduledBackup.backup == backup_id)
    BackupSchedule.update(last_error=error).where(BackupSchedule.id.in_(taker)).execute()


def destroy(backup: Backup, run: Run) -> None:
    """Deletes the rows of a backup whose files are gone, and its keys, which are recorded as an event: within the
    caller's transaction."""
    keys = [disk.passphrase_id for disk in BackupDisk.select().where(BackupDisk.backup == backup)]
    BackupDisk.delete().where(BackupDisk.backup == backup).execute()
    firmware_state.forget(backup.id)
    Backup.delete().where(Backup.id == backup.id).execute()
    for key_id in keys:
        delete_passphrase(key_id)
    events.record(
        "backup.key.destroy",
        events.Outcome.SUCCEEDED,
        run.user,
        "backup",
        backup.id,
        backup.name,
        f"the files of backup {backup.name} are gone, and their keys destroyed (keys {', '.join(keys)})",
        operation_id=run.id,
        account_id=backup.account_id,
    )
