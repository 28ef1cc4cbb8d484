"""Moving a volume's content into a new file, which becomes the volume's: under another key, encrypted, elsewhere.

While no VM runs with it a host copies. Under a running VM its host mirrors: once the mirror is whole, every write of
the guest goes to both files before the guest hears of its success, so that they are equal until the VM is told to go on
with the new one alone. Once it was told, the new file is the right one, whatever becomes of the host.
"""

from __future__ import annotations

from typing import Any

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError
from ostler_common.hypervisors import Function

from ostler_control import settings
from ostler_control.database import session
from ostler_control.hosts.choose import check_host, choose_host
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Pool, new_id
from ostler_control.operations import Json, Run, Undo, record_operation, workflow
from ostler_control.volumes import files, matrix, wire
from ostler_control.volumes.attach import check_startable
from ostler_control.volumes.copying import copy_file
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import load, lock_with_vm, running_host


def encrypt(volume: Any, user: str, keys: Keyring) -> Operation:
    """Records the operation that turns a plain volume into an encrypted one.

    Raises FailedPreconditionError: ALREADY_ENCRYPTED, and what `begin_exchange` raises.
    """
    return record_exchange("volume.encrypt", matrix.Operation.ENCRYPT, volume, user, keys, encrypted=True)


def migrate(volume: Any, pool: Any, user: str, keys: Keyring, keep_key: bool = False) -> Operation:
    """Records the operation that moves a volume to another pool, under a new passphrase unless `keep_key`.

    Raises FailedPreconditionError: SAME_POOL, and what `begin_exchange` raises.
    """
    if volume.pool_id == pool.id:
        raise FailedPreconditionError(f"volume {volume.name} is in pool {pool.name} already", "SAME_POOL")
    encrypted = bool(volume.passphrase_id)
    return record_exchange(
        "volume.migrate",
        matrix.Operation.MIGRATE,
        volume,
        user,
        keys,
        encrypted=encrypted,
        pool=pool,
        keep_key=keep_key and encrypted,
    )


def record_exchange(
    verb: str,
    operation: matrix.Operation,
    volume: Any,
    user: str,
    keys: Keyring,
    *,
    encrypted: bool,
    pool: Pool | None = None,
    keep_key: bool = False,
    **inputs: Json,
) -> Operation:
    """Records an operation whose body is `exchange`, and the new file.

    encrypted: the new file is; pool None: the volume's; keep_key: the new file has the same passphrase, in a row of its
    own. Raises FailedPreconditionError: the reasons of the matrix, VOLUME_STATE, VM_STATE, HOST_SILENT,
    NO_FEASIBLE_POOL; for a running VM LACKS_VOLUME_ENCRYPTION or LACKS_POOL, else NO_COMMON_HOST or NO_CAPABLE_HOST.
    """
    vm, volume = lock_with_vm(volume)
    check_ready(volume)
    host = running_host(vm) if vm is not None else None
    target: Any = pool or volume.pool
    matrix.check(operation, volume, host is not None, target.type)
    needs_encryption = encrypted or bool(volume.passphrase_id)
    if host is not None:
        rules.need(Function.ONLINE_COPY, host)
        for place in (volume.pool, target):
            check_host(host, place, needs_encryption)
    else:
        choose_host(volume.pool, needs_encryption, lambda _: 0, target)
        if vm is not None:
            check_startable(vm, volume, target, encrypted)
    operation_id = new_id()
    key = keys.store(keys.open(volume), volume.id) if keep_key else None
    file = files.record_file(volume, operation_id, keys, encrypted=encrypted, pool=target, key=key)
    recorded = {
        "file_id": file.id,
        "old_file_id": volume.file_id,
        "vm_id": vm.id if vm is not None else "",
        "host_id": host.id if host is not None else "",
        "mirror": host is not None,
        "iter_time_ms": settings.encryption.LUKS_ITER_TIME.get(),
        **inputs,
    }
    also = [vm] if vm is not None else []
    return record_operation(verb, volume, user, recorded, also=also, operation_id=operation_id)


@workflow("volume.encrypt")
def _encrypt(run: Run) -> None:
    exchange(run)


@workflow("volume.migrate")
def _migrate(run: Run) -> None:
    exchange(run)


def exchange(run: Run) -> None:
    """The body of an operation that `begin_exchange` recorded."""
    file_id, silent = run.inputs["file_id"], False
    with run.undoing() as undo:
        undo.push("discard", lambda: _discard(run, undo))
        if run.inputs["mirror"]:
            undo.push("cancel-mirror", lambda: _cancel_mirror(run))
            run.step("mirror", lambda: _mirror(run))
            silent = run.always("pivot", lambda: _pivot(run))
        else:
            host_id: str = run.step("choose", lambda: _choose(run))
            run.step("copy", lambda: _copy(run, host_id))
        undo.clear()
    run.always("switch", lambda: files.switch(run.resource_id, file_id))
    if silent:  # the sweeper asks the host when it is back, and only then removes the old file
        raise UnavailableError(
            "the VM's host fell silent when the VM was to go on with the volume's new file, which holds everything and "
            "is the volume's from now on; the former file is removed when the host is back",
            "PIVOT_UNRESOLVED",
        )
    files.remove_old(run, run.inputs["old_file_id"])


def _choose(run: Run) -> str:
    with session():
        volume, file = load(run.resource_id), files.load(run.inputs["file_id"])
        encrypted = bool(volume.passphrase_id or file.passphrase_id)
        host_id: str = choose_host(volume.pool, encrypted, run.agents.busy, file.pool).id
        return host_id


def _copy(run: Run, host_id: str) -> None:
    file = files.load(run.inputs["file_id"])
    files.record_info(file.id, copy_file(run, host_id, load(run.resource_id), file, size_bytes=file.size_bytes))


def _mirror(run: Run) -> None:
    file = files.load(run.inputs["file_id"])
    request = volume_pb2.MirrorVolumeRequest(
        operation=run.ref(),
        vm_id=run.inputs["vm_id"],
        source=wire.keyed_ref(load(run.resource_id), run.keys),
        target=wire.keyed_ref(file, run.keys, run.inputs["iter_time_ms"]),
        provisioning=wire.PROVISIONINGS[file.provisioning],
    )
    update = run.job(_host(run), lambda agent: agent.volumes.MirrorVolume, request, (0, 95))
    files.record_info(file.id, update.volume)


def _pivot(run: Run) -> bool:
    """Whether the host fell silent, so that it is not known whether the VM has gone on with the new file alone."""
    request = volume_pb2.PivotVolumeRequest(operation=run.ref(), **_mirrored(run))
    try:
        run.job(_host(run), lambda agent: agent.volumes.PivotVolume, request, (95, 98))
    except OstlerError as error:
        # Of a host that is gone for good it is not known either; if the VM did not go over, both files are equal.
        if error.reason not in ("HOST_UNREACHABLE", "HOST_REMOVED"):
            raise
        return True
    return False


def _cancel_mirror(run: Run) -> None:
    request = volume_pb2.CancelMirrorRequest(operation=run.ref(), **_mirrored(run))
    try:
        run.job(_host(run), lambda agent: agent.volumes.CancelMirror, request)
    except OstlerError as error:
        if error.reason != "PIVOTED":
            raise
        # Whatever went wrong, the VM writes to the new file by now: that one is the right one.
        files.switch(run.resource_id, run.inputs["file_id"])


def _mirrored(run: Run) -> dict[str, Any]:
    file = files.load(run.inputs["file_id"])
    return {
        "vm_id": run.inputs["vm_id"],
        "source": wire.plain_ref(load(run.resource_id)),
        "target": wire.plain_ref(file),
    }


def _host(run: Run) -> Any:
    return address_of(run.inputs["host_id"])


def _discard(run: Run, undo: Undo) -> None:
    # A host that may still write to the file does so until it is asked again: the sweeper does that.
    if not undo.failed("cancel-mirror"):
        files.remove(run, run.inputs["file_id"])
