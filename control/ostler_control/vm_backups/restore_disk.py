"""Restoring one disk of a backup to a new volume."""

from __future__ import annotations

from dataclasses import dataclass

from ostler_common.errors import NotFoundError

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.keys import Keyring
from ostler_control.models import Account, Backup, BackupDisk, Operation, Pool, Volume, new_id
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.vm_backups.restoring import choose_pool, fill, offering_of
from ostler_control.vm_backups.rows import disks_of, load_disk, lock_ready
from ostler_control.volumes import host_jobs
from ostler_control.volumes.create import delete_file, record_failure
from ostler_control.volumes.new_volume import check_free_name
from ostler_control.volumes.rows import load


@dataclass(frozen=True)
class NewDiskRestore:
    """A requested volume with a backup's disk. slot: the disk's in the VM; pool None: its own, or any that fits."""

    backup: Backup
    slot: int
    name: str
    pool: Pool | None = None


@dataclass(frozen=True)
class DiskRestoreInputs:
    """disk_id: the backup's."""

    disk_id: str
    iter_time_ms: int


def restore_disk(wanted: NewDiskRestore, user: str, keys: Keyring) -> Operation:
    """Records a new, unattached volume and the operation that fills it. It is encrypted if the disk was.

    Raises InvalidArgumentError; NotFoundError DISK_NOT_FOUND; AlreadyExistsError VOLUME_EXISTS; AbortedError
    RESOURCE_BUSY; FailedPreconditionError BACKUP_STATE, NO_FEASIBLE_POOL, NO_CAPABLE_HOST, NO_COMMON_HOST;
    ResourceExhaustedError QUOTA_EXCEEDED.
    """
    backup = lock_ready(wanted.backup)
    disk = _disk(backup, wanted.slot)
    check_free_name(Account.get_by_id(backup.account_id), check_name("name", wanted.name))
    check_quota(backup.account_id, Resources(volumes=1, storage_bytes=disk.size_bytes))
    volume_id = new_id()
    volume = Volume.create(
        id=volume_id,
        name=wanted.name,
        account=backup.account_id,
        pool=choose_pool(disk, wanted.pool),
        disk_offering=offering_of(disk),
        passphrase=keys.create(volume_id) if disk.encrypted else None,
        size_bytes=disk.size_bytes,
        format=disk.volume_format,
        provisioning=disk.provisioning,
    )
    inputs = DiskRestoreInputs(disk.id, settings.encryption.LUKS_ITER_TIME.get())
    return record_operation("volume.restore", volume, user, inputs, also=[backup])


def _disk(backup: Backup, slot: int) -> BackupDisk:
    disks = disks_of(backup.id)
    for disk in disks:
        if disk.slot == slot:
            return disk
    there = ", ".join(str(disk.slot) for disk in disks)
    raise NotFoundError(f"backup {backup.name} has no disk {slot}; it has {there}", "DISK_NOT_FOUND")


@workflow("volume.restore")
def _restore(run: Run) -> None:
    inputs = run.read(DiskRestoreInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: record_failure(run, undo))
        host_id: str = run.step(
            "choose", lambda: host_jobs.choose_for_copy(run, load_disk(inputs.disk_id), load(run.resource_id))
        )
        undo.push("remove", lambda: delete_file(run, host_id, run.resource_id))
        run.step("copy", lambda: fill(run, host_id, inputs.disk_id, run.resource_id, inputs.iter_time_ms))
