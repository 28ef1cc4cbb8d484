"""Reverting a stopped VM: all its disks get the content of a snapshot, in files that replace theirs.

All disks switch in one transaction: a VM never has some disks of the snapshot and some of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ostler_common.errors import FailedPreconditionError

from ostler_control import settings
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Snapshot, Vm, VmSnapshot, VmSnapshotDisk, Volume, new_id
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.snapshots.rows import load as load_snapshot
from ostler_control.vm_snapshots.rows import disks_of, lock_ready
from ostler_control.vms.rows import check_not_elsewhere
from ostler_control.vms.rows import disks_of as disks_of_vm
from ostler_control.volumes import files, host_jobs, matrix
from ostler_control.volumes.copying import copy_file
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import running_host


@dataclass(frozen=True)
class RevertedDisk:
    """file_id: the volume's new file, old_file_id: the one that it had."""

    snapshot_id: str
    volume_id: str
    file_id: str
    old_file_id: str


@dataclass(frozen=True)
class RevertInputs:
    """All disks of the VM."""

    disks: tuple[RevertedDisk, ...]
    iter_time_ms: int


def revert(row: VmSnapshot, user: str, keys: Keyring) -> Operation:
    """Records the operation that restores the content and size of all disks of a stopped VM.

    Each volume stays encrypted, or plain, as it is now, under a new key. Raises AbortedError RESOURCE_BUSY;
    FailedPreconditionError: VM_GONE, VM_RUNNING, VM_STATE, RUNS_ELSEWHERE, HOST_SILENT, DISKS_CHANGED, SNAPSHOT_LOST,
    SNAPSHOT_STATE, VOLUME_STATE, NO_FEASIBLE_POOL, NO_COMMON_HOST, NO_CAPABLE_HOST; ResourceExhaustedError
    QUOTA_EXCEEDED.
    """
    seen = Vm.get_or_none(Vm.id == row.vm_id)
    if seen is None:
        raise FailedPreconditionError(
            f"VM {row.vm_name} is gone; create volumes from the snapshots of its disks (ostler vm snapshot show "
            f"{row.name}, ostler volume create --snapshot)",
            "VM_GONE",
            {"vm": row.vm_id},
        )
    vm = lock_row(seen)
    check_not_elsewhere(vm)
    if running_host(vm) is not None:
        raise FailedPreconditionError(
            f"VM {vm.name} runs, and its disks cannot be replaced meanwhile; stop it first (ostler vm stop {vm.name})",
            "VM_RUNNING",
            {"vm": vm.id},
        )
    volumes = {volume.id: lock_row(volume) for volume in disks_of_vm(vm.id)}
    row = lock_ready(row)
    disks = disks_of(row.id)
    _check_same_disks(vm, row, disks, list(volumes.values()))
    operation_id = new_id()
    pairs = [(_lock_snapshot(row, disk), volumes[disk.volume_id]) for disk in disks]
    reverted = tuple(_record_file(snapshot, volume, operation_id, keys) for snapshot, volume in pairs)
    inputs = RevertInputs(reverted, settings.encryption.LUKS_ITER_TIME.get())
    also = [row, *(snapshot for snapshot, _ in pairs), *(volume for _, volume in pairs)]
    return record_operation("vm.revert", vm, user, inputs, also=also, operation_id=operation_id)


def _check_same_disks(vm: Vm, row: VmSnapshot, disks: Sequence[VmSnapshotDisk], volumes: Sequence[Volume]) -> None:
    then, now = {disk.volume_id for disk in disks}, {volume.id for volume in volumes}
    changes = [f"{volume.name} was attached" for volume in volumes if volume.id not in then]
    for disk in disks:
        if disk.volume_id not in now:
            exists = Volume.select().where(Volume.id == disk.volume_id).exists()
            changes.append(f"{disk.volume_name} was {'detached' if exists else 'deleted'}")
    if changes:
        raise FailedPreconditionError(
            f"the disks of VM {vm.name} have changed since snapshot {row.name}: {', '.join(changes)}; attach and "
            f"detach them as they were, or use the disks' snapshots one by one (ostler vm snapshot show {row.name})",
            "DISKS_CHANGED",
            {"vm": vm.id, "vm_snapshot": row.id},
        )


def _lock_snapshot(row: VmSnapshot, disk: VmSnapshotDisk) -> Snapshot:
    if disk.snapshot is None:
        raise FailedPreconditionError(
            f"the snapshot of disk {disk.volume_name} was lost with its pool, so VM snapshot {row.name} is not whole; "
            "use the snapshots of its other disks one by one",
            "SNAPSHOT_LOST",
            {"vm_snapshot": row.id, "volume": disk.volume_id},
        )
    return lock_row(disk.snapshot)


def _record_file(snapshot: Snapshot, volume: Volume, operation_id: str, keys: Keyring) -> RevertedDisk:
    check_ready(volume)
    matrix.check(matrix.Operation.REVERT, volume, False)
    encrypted = bool(volume.passphrase_id)
    host_jobs.check_host_available(snapshot.pool, encrypted or bool(snapshot.passphrase_id), volume.pool)
    file = files.record_file(volume, operation_id, keys, encrypted=encrypted, size_bytes=snapshot.size_bytes)
    return RevertedDisk(snapshot.id, volume.id, file.id, volume.file_id)


@workflow("vm.revert")
def _revert(run: Run) -> None:
    inputs = run.read(RevertInputs)
    with run.undoing() as undo:
        for number, disk in enumerate(inputs.disks):
            undo.push(f"discard-{number}", partial(files.remove, run, disk.file_id))
            host_id: str = run.step(f"choose-{number}", partial(_choose, run, disk))
            run.step(f"copy-{number}", partial(_copy, run, host_id, disk, inputs.iter_time_ms))
        undo.clear()
    run.always("switch", lambda: files.switch_all((disk.volume_id, disk.file_id) for disk in inputs.disks))
    files.remove_all_old(run, [disk.old_file_id for disk in inputs.disks])


def _choose(run: Run, disk: RevertedDisk) -> str:
    return host_jobs.choose_for_copy(run, load_snapshot(disk.snapshot_id), files.load(disk.file_id))


def _copy(run: Run, host_id: str, disk: RevertedDisk, iter_time_ms: int) -> None:
    file = files.load(disk.file_id)
    files.record_info(file.id, copy_file(run, host_id, load_snapshot(disk.snapshot_id), file, iter_time_ms))
