"""Restoring over the VM that was backed up: its disks get the content of the backup, in files that replace theirs.

All disks switch in one transaction: a VM never has some disks of the backup and some of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ostler_common.errors import FailedPreconditionError

from ostler_control import settings
from ostler_control.keys import Keyring
from ostler_control.models import Backup, BackupDisk, Operation, Vm, Volume, new_id
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.vm_backups import firmware_state
from ostler_control.vm_backups.rows import disks_of, load_disk, lock_ready
from ostler_control.vms.rows import check_not_elsewhere, wrong_state
from ostler_control.volumes import files, host_jobs
from ostler_control.volumes.copying import copy_file
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import running_host


@dataclass(frozen=True)
class RestoredDisk:
    """disk_id: the backup's; file_id: the volume's new file, old_file_id: the one that it had."""

    disk_id: str
    volume_id: str
    file_id: str
    old_file_id: str


@dataclass(frozen=True)
class RestoreOverInputs:
    """The disks that the backup has; others of the VM stay as they are.

    firmware_of: the backup, if it has what the firmware kept.
    """

    disks: tuple[RestoredDisk, ...]
    iter_time_ms: int
    firmware_of: str = ""


def restore_over(backup: Backup, user: str, keys: Keyring) -> Operation:
    """Records the operation that restores the content and size of a stopped VM's disks.

    Each volume stays encrypted, or plain, as it is now, under a new key. Raises AbortedError RESOURCE_BUSY;
    FailedPreconditionError: VM_GONE, DISK_GONE, BACKUP_STATE, VM_STATE, RUNS_ELSEWHERE, HOST_SILENT, VOLUME_STATE,
    NO_FEASIBLE_POOL, NO_COMMON_HOST, NO_CAPABLE_HOST; ResourceExhaustedError QUOTA_EXCEEDED.
    """
    seen = Vm.get_or_none(Vm.id == backup.vm_id)
    if seen is None:
        raise FailedPreconditionError(
            f"VM {backup.vm_name} is gone; restore it to a new VM (ostler backup restore --name)",
            "VM_GONE",
            {"vm": backup.vm_id},
        )
    vm = lock_row(seen)
    check_not_elsewhere(vm)
    if running_host(vm) is not None:
        raise wrong_state(vm, "stopped")
    pairs = [(disk, _lock_volume(vm, disk)) for disk in disks_of(backup.id)]
    backup = lock_ready(backup)
    operation_id = new_id()
    restored = tuple(_record_file(disk, volume, operation_id, keys) for disk, volume in pairs)
    inputs = RestoreOverInputs(
        restored,
        settings.encryption.LUKS_ITER_TIME.get(),
        firmware_of=backup.id if firmware_state.is_in(backup.id) else "",
    )
    also = [backup, *(volume for _, volume in pairs)]
    return record_operation("vm.restore-over", vm, user, inputs, also=also, operation_id=operation_id)


def _lock_volume(vm: Vm, disk: BackupDisk) -> Volume:
    volume = Volume.get_or_none((Volume.id == disk.volume_id) & (Volume.vm_id == vm.id))
    if volume is None:
        raise FailedPreconditionError(
            f"volume {disk.volume_name} of the backup is no disk of VM {vm.name} any more; attach it, or restore to a "
            "new VM (ostler backup restore --name)",
            "DISK_GONE",
            {"vm": vm.id, "volume": disk.volume_id},
        )
    locked = lock_row(volume)
    check_ready(locked)
    return locked


def _record_file(disk: BackupDisk, volume: Volume, operation_id: str, keys: Keyring) -> RestoredDisk:
    host_jobs.check_host_available(disk.pool, True, volume.pool)
    encrypted = bool(volume.passphrase_id)
    file = files.record_file(volume, operation_id, keys, encrypted=encrypted, size_bytes=disk.size_bytes)
    return RestoredDisk(disk.id, volume.id, file.id, volume.file_id)


@workflow("vm.restore-over")
def _restore(run: Run) -> None:
    inputs = run.read(RestoreOverInputs)
    with run.undoing() as undo:
        for number, restored in enumerate(inputs.disks):
            undo.push(f"discard-{number}", partial(files.remove, run, restored.file_id))
            host_id = run.step(f"choose-{number}", partial(_choose, run, restored))
            run.step(f"copy-{number}", partial(_copy, run, host_id, restored, inputs.iter_time_ms))
        undo.clear()
    run.always("switch", lambda: files.switch_all((disk.volume_id, disk.file_id) for disk in inputs.disks))
    try:
        if inputs.firmware_of:
            run.always("firmware-state", lambda: firmware_state.restore(run, inputs.firmware_of))
    finally:
        files.remove_all_old(run, [disk.old_file_id for disk in inputs.disks])


def _choose(run: Run, restored: RestoredDisk) -> str:
    return host_jobs.choose_for_copy(run, load_disk(restored.disk_id), files.load(restored.file_id))


def _copy(run: Run, host_id: str, restored: RestoredDisk, iter_time_ms: int) -> None:
    file = files.load(restored.file_id)
    files.record_info(file.id, copy_file(run, host_id, load_disk(restored.disk_id), file, iter_time_ms))
