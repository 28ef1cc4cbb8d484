"""Reverting a stopped VM: all its disks get the content of a snapshot, in files that replace theirs.

All disks switch in one transaction: a VM never has some disks of the snapshot and some of its own. If the snapshot has
memory, the VM then starts from it. That is tried once: memory fits disks only as long as nobody writes to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from ostler_common.errors import FailedPreconditionError

from ostler_control import settings
from ostler_control.keys import Keyring
from ostler_control.models import (
    Operation,
    Snapshot,
    Vm,
    VmSnapshot,
    VmSnapshotDisk,
    VmSnapshotMemory,
    VmState,
    Volume,
    new_id,
)
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.snapshots.rows import load as load_snapshot
from ostler_control.vm_snapshots import memory
from ostler_control.vm_snapshots.rows import disks_of, lock_ready
from ostler_control.vms import driver_details, firmware_states
from ostler_control.vms.on_host import FORCE_OFF, force_off, start_on
from ostler_control.vms.rows import check_not_elsewhere
from ostler_control.vms.rows import disks_of as disks_of_vm
from ostler_control.vms.rows import set_state as set_vm_state
from ostler_control.vms.start import record_failed_start, undefine_on_last_host
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
    """All disks of the VM. memory_id: of the memory that its guest continues from, on host_id; "": it stays stopped.

    last_host_id: where the VM was defined before, "" for nowhere.
    """

    disks: tuple[RevertedDisk, ...]
    iter_time_ms: int
    memory_id: str = ""
    host_id: str = ""
    last_host_id: str = ""
    vm_snapshot_id: str = ""


def revert(row: VmSnapshot, user: str, keys: Keyring, *, disks_only: bool = False) -> Operation:
    """Records the operation that restores the content and size of all disks of a stopped VM, and its memory.

    disks_only: the VM stays stopped, also if the snapshot has memory. Each volume stays encrypted, or plain, as it is
    now, under a new key. Raises AbortedError RESOURCE_BUSY; FailedPreconditionError: VM_GONE, VM_RUNNING, VM_STATE,
    RUNS_ELSEWHERE, HOST_SILENT, DISKS_CHANGED, SNAPSHOT_LOST, SNAPSHOT_STATE, VOLUME_STATE, NO_FEASIBLE_POOL,
    NO_COMMON_HOST, NO_CAPABLE_HOST; with memory VM_CHANGED, NO_FEASIBLE_HOST, FUNCTION_NOT_SUPPORTED, and what
    `extra_configs.check_start` raises; ResourceExhaustedError QUOTA_EXCEEDED.
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
    kept = None if disks_only else memory.of_snapshot(row.id)
    if kept is not None:
        memory.check_same_vm(vm, kept)
        matrix.check_all(matrix.Operation.START_VM, list(volumes.values()), False)
    operation_id = new_id()
    pairs = [(_lock_snapshot(row, disk), volumes[disk.volume_id]) for disk in disks]
    reverted = tuple(_record_file(snapshot, volume, operation_id, keys) for snapshot, volume in pairs)
    inputs = RevertInputs(reverted, settings.encryption.LUKS_ITER_TIME.get(), vm_snapshot_id=row.id)
    if kept is not None:
        host_id = memory.claim_host(vm, kept)
        driver_details.check(vm, host_id)
        inputs = replace(inputs, memory_id=kept.id, host_id=host_id, last_host_id=vm.last_host_id or "")
    also = [row, *(snapshot for snapshot, _ in pairs), *(volume for _, volume in pairs)]
    operation = record_operation("vm.revert", vm, user, inputs, also=also, operation_id=operation_id)
    if kept is not None:
        set_vm_state(vm.id, VmState.STARTING)
    return operation


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
        if inputs.memory_id:
            undo.push("stay-stopped", lambda: record_failed_start(run, undo))
        for number, disk in enumerate(inputs.disks):  # all are recorded already
            undo.push(f"discard-{number}", partial(files.remove, run, disk.file_id))
        for number, disk in enumerate(inputs.disks):
            host_id: str = run.step(f"choose-{number}", partial(_choose, run, disk))
            run.step(f"copy-{number}", partial(_copy, run, host_id, disk, inputs.iter_time_ms))
        undo.clear()
    run.always("switch", lambda: files.switch_all((disk.volume_id, disk.file_id) for disk in inputs.disks))
    try:
        if inputs.memory_id:
            _continue(run, inputs)
        else:
            _revert_firmware_state(run, inputs)
    finally:
        files.remove_all_old(run, [disk.old_file_id for disk in inputs.disks])


def _continue(run: Run, inputs: RevertInputs) -> None:
    """Starts the VM from its memory. If that fails, it is stopped, with the snapshot's disks."""
    with run.undoing() as undo:
        undo.push("record-failure", lambda: record_failed_start(run, undo))
        _revert_firmware_state(run, inputs)
        if inputs.last_host_id != inputs.host_id and firmware_states.is_kept(run.resource_id):
            run.step("take-firmware-state", lambda: firmware_states.take_along(run, inputs.last_host_id))
        if inputs.last_host_id not in ("", inputs.host_id):
            run.step("undefine-on-last-host", lambda: undefine_on_last_host(run, inputs.last_host_id))
        undo.push(FORCE_OFF, lambda: force_off(run, inputs.host_id))
        kept: bool = run.step("start", lambda: start_on(run, inputs.host_id, memory=_load_memory(inputs.memory_id)))
    firmware_states.keep_step(run, inputs.host_id, kept)


def _revert_firmware_state(run: Run, inputs: RevertInputs) -> None:
    if firmware_states.is_kept(run.resource_id):
        run.always("firmware-state", lambda: firmware_states.revert(run.resource_id, inputs.vm_snapshot_id, run.keys))


def _load_memory(memory_id: str) -> VmSnapshotMemory:
    kept = memory.load_or_none(memory_id)
    assert kept is not None  # its snapshot is held
    return kept


def _choose(run: Run, disk: RevertedDisk) -> str:
    return host_jobs.choose_for_copy(run, load_snapshot(disk.snapshot_id), files.load(disk.file_id))


def _copy(run: Run, host_id: str, disk: RevertedDisk, iter_time_ms: int) -> None:
    file = files.load(disk.file_id)
    files.record_info(file.id, copy_file(run, host_id, load_snapshot(disk.snapshot_id), file, iter_time_ms))
