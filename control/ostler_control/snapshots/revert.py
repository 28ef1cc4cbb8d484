"""Reverting: a volume whose VM is stopped gets the content of a snapshot, in a file that replaces the current one."""

from __future__ import annotations

from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError

from ostler_control import settings
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Snapshot, Volume, new_id
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.snapshots.rows import load as load_snapshot
from ostler_control.volumes import files, host_jobs, matrix
from ostler_control.volumes.copying import copy_file
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import lock_with_vm, running_host
from ostler_control.volumes.sources import check_snapshot_ready


@dataclass(frozen=True)
class RevertInputs:
    """file_id: the new file; old_file_id: the volume's when it was requested."""

    snapshot_id: str
    file_id: str
    old_file_id: str
    iter_time_ms: int


def revert(snapshot: Snapshot, user: str, keys: Keyring) -> Operation:
    """Records the operation that restores a volume's content and size from a snapshot of it.

    The volume stays encrypted, or plain, as it is now, under a new key. Raises AbortedError RESOURCE_BUSY;
    FailedPreconditionError: VOLUME_GONE, VOLUME_STATE, SNAPSHOT_STATE, VM_RUNNING, VM_STATE, HOST_SILENT,
    NO_FEASIBLE_POOL, NO_COMMON_HOST, NO_CAPABLE_HOST.
    """
    seen = Volume.get_or_none(Volume.id == snapshot.volume_id)
    if seen is None:
        raise FailedPreconditionError(
            f"the volume of snapshot {snapshot.name} was deleted; create a new one from it "
            "(ostler volume create --snapshot)",
            "VOLUME_GONE",
            {"snapshot": snapshot.id},
        )
    vm, volume = lock_with_vm(seen)
    snapshot = lock_row(snapshot)
    check_ready(volume)
    check_snapshot_ready(snapshot)
    running = vm is not None and running_host(vm) is not None
    matrix.check(matrix.Operation.REVERT, volume, running)
    encrypted = bool(volume.passphrase_id)
    host_jobs.check_host_available(snapshot.pool, encrypted or bool(snapshot.passphrase_id), volume.pool)
    operation_id = new_id()
    file = files.record_file(volume, operation_id, keys, encrypted=encrypted, size_bytes=snapshot.size_bytes)
    inputs = RevertInputs(snapshot.id, file.id, volume.file_id, settings.encryption.LUKS_ITER_TIME.get())
    also = [snapshot] if vm is None else [vm, snapshot]
    return record_operation("volume.revert", volume, user, inputs, also=also, operation_id=operation_id)


@workflow("volume.revert")
def _revert(run: Run) -> None:
    inputs = run.read(RevertInputs)
    with run.undoing() as undo:
        undo.push("discard", lambda: files.remove(run, inputs.file_id))
        host_id: str = run.step("choose", lambda: _choose(run, inputs))
        run.step("copy", lambda: _copy(run, host_id, inputs))
        undo.clear()
    run.always("switch", lambda: files.switch(run.resource_id, inputs.file_id))
    files.remove_old(run, inputs.old_file_id)


def _choose(run: Run, inputs: RevertInputs) -> str:
    return host_jobs.choose_for_copy(run, load_snapshot(inputs.snapshot_id), files.load(inputs.file_id))


def _copy(run: Run, host_id: str, inputs: RevertInputs) -> None:
    file = files.load(inputs.file_id)
    info = copy_file(run, host_id, load_snapshot(inputs.snapshot_id), file, inputs.iter_time_ms)
    files.record_info(file.id, info)
