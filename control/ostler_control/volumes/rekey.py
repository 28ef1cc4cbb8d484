"""Another key for an encrypted volume.

Shallow: another passphrase for the same header. The new one is in the database before the header knows it, and the old
one until the header has forgotten it. Deep: everything is written anew into another file, under another master key.
"""

from __future__ import annotations

from typing import Any

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import AbortedError, OstlerError

from ostler_control import settings
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address_of
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Volume, VolumeFile, new_id, now
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.volumes import files, matrix, wire
from ostler_control.volumes.exchange import exchange, record_exchange
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import load, lock_with_vm, running_host
from ostler_control.volumes.sweep import remove_key


def rekey(volume: Any, user: str, keys: Keyring, deep: bool = False) -> Operation:
    """Records the operation that gives a volume another passphrase; deep: another master key too.

    Raises FailedPreconditionError: NOT_ENCRYPTED, VOLUME_IN_USE (shallow, under a running VM), VOLUME_STATE, VM_STATE,
    HOST_SILENT, NO_CAPABLE_HOST, and for deep what `begin_exchange` raises.
    """
    if deep:
        what = matrix.Operation.REKEY_DEEP
        return record_exchange("volume.rekey", what, volume, user, keys, encrypted=True, deep=True)
    vm, volume = lock_with_vm(volume)
    check_ready(volume)
    running = running_host(vm) is not None if vm is not None else False
    matrix.check(matrix.Operation.REKEY, volume, running)
    choose_host(volume.pool, True, lambda _: 0)
    operation_id = new_id()
    key: Any = VolumeFile.create(
        volume_id=volume.id,
        role="key",
        operation_id=operation_id,
        pool=volume.pool,
        passphrase=keys.create(volume.id),
        format=volume.format,
        size_bytes=volume.size_bytes,
    )
    inputs = {
        "deep": False,
        "file_id": key.id,
        "key_id": key.passphrase_id,
        "iter_time_ms": settings.encryption.LUKS_ITER_TIME.get(),
    }
    also = [vm] if vm is not None else []
    return record_operation("volume.rekey", volume, user, inputs, also=also, operation_id=operation_id)


@workflow("volume.rekey")
def _rekey(run: Run) -> None:
    if run.inputs["deep"]:
        exchange(run)
        return
    file_id: str = run.inputs["file_id"]
    with run.undoing() as undo:
        host_id: str = run.step("choose", lambda: _choose(run))
        undo.push("remove-new", lambda: remove_key(run, file_id))
        run.step("add", lambda: _add(run, host_id))
        undo.clear()
    run.always("switch", lambda: _switch(run))
    try:
        run.always("remove-old", lambda: remove_key(run, file_id))
    except OstlerError as error:
        raise AbortedError(
            "the volume has its new passphrase, but the old one still opens it too, until a host could remove it, "
            f"which is tried again by itself: {error}",
            "OLD_KEY_LEFT",
        ) from error


def _choose(run: Run) -> str:
    with session():
        host_id: str = choose_host(load(run.resource_id).pool, True, run.agents.busy).id
        return host_id


def _add(run: Run, host_id: str) -> None:
    request = volume_pb2.AddVolumeKeyRequest(
        operation=run.ref(),
        volume=wire.keyed_ref(load(run.resource_id), run.keys),
        new_key=wire.key(files.load(run.inputs["file_id"]), run.keys, run.inputs["iter_time_ms"]),
    )
    run.job(address_of(host_id), lambda agent: agent.volumes.AddVolumeKey, request)


def _switch(run: Run) -> None:
    """The new passphrase is the volume's, and the old one the further key: in one transaction."""
    with transaction():
        volume = load(run.resource_id)
        old_id, new_id = volume.passphrase_id, run.inputs["key_id"]
        if old_id == new_id:
            return
        VolumeFile.update(passphrase=old_id).where(VolumeFile.id == run.inputs["file_id"]).execute()
        Volume.update(passphrase=new_id, update_time=now()).where(Volume.id == volume.id).execute()
