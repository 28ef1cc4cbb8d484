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
from ostler_control.hosts.choose import worker
from ostler_control.hosts.rows import address_of
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Volume, VolumeFile, new_id, now
from ostler_control.operations import Work, begin, workflow
from ostler_control.volumes import files, matrix, wire
from ostler_control.volumes.exchange import begin_exchange, exchange
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import check_vm_at_rest, load, take_with_vm
from ostler_control.volumes.sweep import remove_key


def rekey(volume: Any, user: str, keys: Keyring, deep: bool = False) -> Operation:
    """Records the operation that gives a volume another passphrase; deep: another master key too.

    Raises FailedPreconditionError: NOT_ENCRYPTED, VOLUME_IN_USE (shallow, under a running VM), VOLUME_STATE, VM_STATE,
    HOST_SILENT, NO_CAPABLE_HOST, and for deep what `begin_exchange` raises.
    """
    if deep:
        what = matrix.Operation.REKEY_DEEP
        return begin_exchange("volume.rekey", what, volume, user, keys, encrypted=True, deep=True)
    vm, volume = take_with_vm(volume)
    check_ready(volume)
    running = check_vm_at_rest(vm) is not None if vm is not None else False
    matrix.check(matrix.Operation.REKEY, volume, running)
    worker(volume.pool, True, lambda _: 0)
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
        "iter_time_ms": settings.get("luks.iter.time"),
    }
    also = [vm] if vm is not None else []
    return begin("volume.rekey", volume, user, inputs, also=also, operation_id=operation_id)


@workflow("volume.rekey")
def _rekey(work: Work) -> None:
    if work.inputs["deep"]:
        exchange(work)
        return
    file_id: str = work.inputs["file_id"]
    with work.undoing() as undo:
        host_id: str = work.step("choose", lambda: _choose(work))
        undo.push("remove-new", lambda: remove_key(work, file_id))
        work.step("add", lambda: _add(work, host_id))
        undo.clear()
    work.always("switch", lambda: _switch(work))
    try:
        work.always("remove-old", lambda: remove_key(work, file_id))
    except OstlerError as error:
        raise AbortedError(
            "the volume has its new passphrase, but the old one still opens it too, until a host could remove it, "
            f"which is tried again by itself: {error}",
            "OLD_KEY_LEFT",
        ) from error


def _choose(work: Work) -> str:
    with session():
        host_id: str = worker(load(work.resource_id).pool, True, work.agents.busy).id
        return host_id


def _add(work: Work, host_id: str) -> None:
    request = volume_pb2.AddVolumeKeyRequest(
        operation=work.ref(),
        volume=wire.keyed_ref(load(work.resource_id), work.keys),
        new_key=wire.key(files.load(work.inputs["file_id"]), work.keys, work.inputs["iter_time_ms"]),
    )
    work.job(address_of(host_id), lambda agent: agent.volumes.AddVolumeKey, request)


def _switch(work: Work) -> None:
    """The new passphrase is the volume's, and the old one the further key: in one transaction."""
    with transaction():
        volume = load(work.resource_id)
        old_id, new_id = volume.passphrase_id, work.inputs["key_id"]
        if old_id == new_id:
            return
        VolumeFile.update(passphrase=old_id).where(VolumeFile.id == work.inputs["file_id"]).execute()
        Volume.update(passphrase=new_id, update_time=now()).where(Volume.id == volume.id).execute()
