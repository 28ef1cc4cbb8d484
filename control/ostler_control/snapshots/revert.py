"""Going back: a volume whose VM is stopped gets the content of a snapshot, in a file that replaces the present one."""

from __future__ import annotations

from typing import Any

from ostler_common.errors import FailedPreconditionError

from ostler_control import settings
from ostler_control.database import session
from ostler_control.hosts.choose import worker
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Volume, new_id
from ostler_control.operations import Work, begin, take, workflow
from ostler_control.snapshots.rows import load as load_snapshot
from ostler_control.volumes import files, matrix
from ostler_control.volumes.copying import copy_file
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import check_vm_at_rest, take_with_vm
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
    vm, volume = take_with_vm(seen)
    snapshot = take(snapshot)
    check_ready(volume)
    check_snapshot_ready(snapshot)
    running = vm is not None and check_vm_at_rest(vm) is not None
    matrix.check(matrix.Operation.REVERT, volume, running)
    encrypted = bool(volume.passphrase_id)
    worker(snapshot.pool, encrypted or bool(snapshot.passphrase_id), lambda _: 0, volume.pool)
    operation_id = new_id()
    file = files.begin(volume, operation_id, keys, encrypted=encrypted, size_bytes=snapshot.size_bytes)
    inputs = {
        "snapshot_id": snapshot.id,
        "file_id": file.id,
        "old_file_id": volume.file_id,
        "iter_time_ms": settings.get("luks.iter.time"),
    }
    also = [snapshot] if vm is None else [vm, snapshot]
    return begin("volume.revert", volume, user, inputs, also=also, operation_id=operation_id)


@workflow("volume.revert")
def _revert(work: Work) -> None:
    file_id = work.inputs["file_id"]
    with work.undoing() as undo:
        undo.push("discard", lambda: files.remove(work, file_id))
        host_id: str = work.step("choose", lambda: _choose(work))
        work.step("copy", lambda: _copy(work, host_id))
        undo.clear()
    work.always("switch", lambda: files.switch(work.resource_id, file_id))
    files.remove_old(work, work.inputs["old_file_id"])


def _choose(work: Work) -> str:
    with session():
        snapshot, file = load_snapshot(work.inputs["snapshot_id"]), files.load(work.inputs["file_id"])
        encrypted = bool(snapshot.passphrase_id or file.passphrase_id)
        host_id: str = worker(snapshot.pool, encrypted, work.agents.busy, file.pool).id
        return host_id


def _copy(work: Work, host_id: str) -> None:
    file = files.load(work.inputs["file_id"])
    files.filled(file.id, copy_file(work, host_id, load_snapshot(work.inputs["snapshot_id"]), file))
