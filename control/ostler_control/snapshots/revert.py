"""Going back: a volume whose VM is stopped gets the content of a snapshot, in a file that replaces the present one."""

from __future__ import annotations

from typing import Any

from ostler_common.errors import FailedPreconditionError

from ostler_control import settings
from ostler_control.database import session
from ostler_control.hosts.choose import choose_host
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Volume, new_id
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.snapshots.rows import load as load_snapshot
from ostler_control.volumes import files, matrix
from ostler_control.volumes.copying import copy_file
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import lock_with_vm, running_host
from ostler_control.volumes.sources import check_snapshot_ready


def revert(snapshot: Any, user: str, keys: Keyring) -> Operation:
    """Records the operation that gives a snapshot's volume its content, and its size, again.

    The volume stays encrypted, or plain, as it is now, under a new key. Raises AbortedError RESOURCE_BUSY;
    FailedPreconditionError: VOLUME_GONE, VOLUME_STATE, SNAPSHOT_STATE, VM_RUNNING, VM_STATE, HOST_SILENT,
    NO_FEASIBLE_POOL, NO_COMMON_HOST, NO_CAPABLE_HOST.
    """
    seen = Volume.get_or_none(Volume.id == snapshot.volume_id)
    if seen is None:
        raise FailedPreconditionError(
            f"the volume of snapshot {snapshot.name} is gone; make a new one of it (ostler volume create --snapshot)",
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
    choose_host(snapshot.pool, encrypted or bool(snapshot.passphrase_id), lambda _: 0, volume.pool)
    operation_id = new_id()
    file = files.record_file(volume, operation_id, keys, encrypted=encrypted, size_bytes=snapshot.size_bytes)
    inputs = {
        "snapshot_id": snapshot.id,
        "file_id": file.id,
        "old_file_id": volume.file_id,
        "iter_time_ms": settings.encryption.LUKS_ITER_TIME.get(),
    }
    also = [snapshot] if vm is None else [vm, snapshot]
    return record_operation("volume.revert", volume, user, inputs, also=also, operation_id=operation_id)


@workflow("volume.revert")
def _revert(run: Run) -> None:
    file_id = run.inputs["file_id"]
    with run.undoing() as undo:
        undo.push("discard", lambda: files.remove(run, file_id))
        host_id: str = run.step("choose", lambda: _choose(run))
        run.step("copy", lambda: _copy(run, host_id))
        undo.clear()
    run.always("switch", lambda: files.switch(run.resource_id, file_id))
    files.remove_old(run, run.inputs["old_file_id"])


def _choose(run: Run) -> str:
    with session():
        snapshot, file = load_snapshot(run.inputs["snapshot_id"]), files.load(run.inputs["file_id"])
        encrypted = bool(snapshot.passphrase_id or file.passphrase_id)
        host_id: str = choose_host(snapshot.pool, encrypted, run.agents.busy, file.pool).id
        return host_id


def _copy(run: Run, host_id: str) -> None:
    file = files.load(run.inputs["file_id"])
    files.record_info(file.id, copy_file(run, host_id, load_snapshot(run.inputs["snapshot_id"]), file))
