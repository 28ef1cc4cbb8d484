"""Replacing the key of an encrypted volume.

Shallow: another passphrase for the same header. The new one is in the database before the header accepts it, and the
old one until the header no longer does. Deep: all data is written into a new file, under another master key.
"""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import AbortedError, OstlerError

from ostler_control import settings
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Volume, VolumeFile, new_id, now
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.volumes import files, host_jobs, matrix, wire
from ostler_control.volumes.exchange import exchange, record_exchange
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import load, lock_with_vm, running_host
from ostler_control.volumes.sweep import remove_key


@dataclass(frozen=True)
class RekeyInputs:
    """Of a shallow rekey; of a deep one these are a part of its `ExchangeInputs`, which have no `key_id`.

    file_id: the row of the further key; key_id: the new passphrase's.
    """

    deep: bool
    file_id: str
    iter_time_ms: int
    key_id: str = ""


def rekey(volume: Volume, user: str, keys: Keyring, deep: bool = False) -> Operation:
    """Records the operation that replaces a volume's passphrase; deep: its master key too.

    Raises FailedPreconditionError: NOT_ENCRYPTED, VOLUME_IN_USE (shallow, under a running VM), VOLUME_STATE, VM_STATE,
    HOST_SILENT, NO_CAPABLE_HOST, and for deep what `record_exchange` raises.
    """
    if deep:
        return record_exchange("volume.rekey", matrix.Operation.REKEY_DEEP, volume, user, keys, encrypted=True)
    vm, volume = lock_with_vm(volume)
    check_ready(volume)
    running = running_host(vm) is not None if vm is not None else False
    matrix.check(matrix.Operation.REKEY, volume, running)
    host_jobs.check_host_available(volume.pool, True)
    operation_id = new_id()
    passphrase = keys.create(volume.id)
    key = VolumeFile.create(
        volume_id=volume.id,
        role="key",
        operation_id=operation_id,
        pool=volume.pool,
        passphrase=passphrase,
        format=volume.format,
        size_bytes=volume.size_bytes,
    )
    inputs = RekeyInputs(False, key.id, settings.encryption.LUKS_ITER_TIME.get(), passphrase.id)
    also = [vm] if vm is not None else []
    return record_operation("volume.rekey", volume, user, inputs, also=also, operation_id=operation_id)


@workflow("volume.rekey")
def _rekey(run: Run) -> None:
    inputs = run.read(RekeyInputs)
    if inputs.deep:
        exchange(run)
    else:
        _rekey_header(run, inputs)


def _rekey_header(run: Run, inputs: RekeyInputs) -> None:
    with run.undoing() as undo:
        host_id: str = run.step("choose", lambda: host_jobs.choose_for(run, load(run.resource_id)))
        undo.push("remove-new", lambda: remove_key(run, inputs.file_id))
        run.step("add", lambda: _add(run, host_id, inputs))
        undo.clear()
    run.always("switch", lambda: _switch(run, inputs))
    try:
        run.always("remove-old", lambda: remove_key(run, inputs.file_id))
    except OstlerError as error:
        raise AbortedError(
            "the volume has its new passphrase, but the old one still opens it until a host can remove it; Ostler "
            f"retries this: {error}",
            "OLD_KEY_NOT_REMOVED",
        ) from error


def _add(run: Run, host_id: str, inputs: RekeyInputs) -> None:
    request = volume_pb2.AddVolumeKeyRequest(
        operation=run.ref(),
        volume=wire.keyed_ref(load(run.resource_id), run.keys),
        new_key=wire.key(files.load(inputs.file_id), run.keys, inputs.iter_time_ms),
    )
    run.job(address_of(host_id), lambda agent: agent.volumes.AddVolumeKey, request)


def _switch(run: Run, inputs: RekeyInputs) -> None:
    """Makes the new passphrase the volume's, and the old one the further key, in one transaction."""
    with transaction():
        volume = load(run.resource_id)
        old_key_id = volume.passphrase_id
        if old_key_id == inputs.key_id:
            return
        VolumeFile.update(passphrase=old_key_id).where(VolumeFile.id == inputs.file_id).execute()
        Volume.update(passphrase=inputs.key_id, update_time=now()).where(Volume.id == volume.id).execute()
