"""Moving a volume's content into a new file, which becomes the volume's: under another key, encrypted, elsewhere.

While no VM runs with the volume, a host copies. Under a running VM its host mirrors: once the mirror is complete, every
write of the guest goes to both files before the guest hears of its success. So both are equal until the VM is told to
pivot to the new one. From then on the new file is the right one, whatever becomes of the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError
from ostler_common.hypervisors import Function

from ostler_control import settings
from ostler_control.hosts.choose import check_host
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.keys import Keyring
from ostler_control.models import Host, Operation, Pool, Vm, Volume, VolumeFile, new_id
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.volumes import files, host_jobs, matrix, wire
from ostler_control.volumes.attach import check_startable
from ostler_control.volumes.copying import copy_file
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import load, lock_with_vm, running_host


@dataclass(frozen=True)
class ExchangeInputs:
    """mirror: VM `vm_id` runs with the volume on host `host_id`, which mirrors; deep: for `volume.rekey`."""

    file_id: str
    old_file_id: str
    vm_id: str
    host_id: str
    mirror: bool
    iter_time_ms: int
    deep: bool = False


def encrypt(volume: Volume, user: str, keys: Keyring) -> Operation:
    """Records the operation that turns a plain volume into an encrypted one.

    Raises FailedPreconditionError: ALREADY_ENCRYPTED, and what `record_exchange` raises.
    """
    return record_exchange("volume.encrypt", matrix.Operation.ENCRYPT, volume, user, keys, encrypted=True)


def migrate(
    volume: Volume, pool: Pool, user: str, keys: Keyring, keep_key: bool = False, operation_id: str = ""
) -> Operation:
    """Records the operation that moves a volume to another pool, under a new passphrase unless `keep_key`.

    operation_id: of the operation, by default a new one.

    Raises FailedPreconditionError: SAME_POOL, and what `record_exchange` raises.
    """
    if volume.pool_id == pool.id:
        raise FailedPreconditionError(f"volume {volume.name} is already in pool {pool.name}", "SAME_POOL")
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
        operation_id=operation_id,
    )


def record_exchange(
    verb: str,
    operation: matrix.Operation,
    volume: Volume,
    user: str,
    keys: Keyring,
    *,
    encrypted: bool,
    pool: Pool | None = None,
    keep_key: bool = False,
    operation_id: str = "",
) -> Operation:
    """Records an operation whose body is `exchange`, and the new file.

    encrypted: the new file is; pool None: the volume's; keep_key: the new file has the same passphrase, in a row of its
    own. Raises FailedPreconditionError: the reasons of the matrix, VOLUME_STATE, VM_STATE, HOST_SILENT,
    NO_FEASIBLE_POOL; for a running VM LACKS_VOLUME_ENCRYPTION or LACKS_POOL, else NO_COMMON_HOST or NO_CAPABLE_HOST.
    """
    vm, volume = lock_with_vm(volume)
    check_ready(volume)
    host = running_host(vm) if vm is not None else None
    target = pool or volume.pool
    matrix.check(operation, volume, host is not None, target.type)
    _check_hosts(volume, target, vm, host, encrypted)
    operation_id = operation_id or new_id()
    key = keys.store(keys.open(volume), volume.id) if keep_key else None
    file = files.record_file(volume, operation_id, keys, encrypted=encrypted, pool=target, key=key)
    inputs = ExchangeInputs(
        file_id=file.id,
        old_file_id=volume.file_id,
        vm_id=vm.id if vm is not None else "",
        host_id=host.id if host is not None else "",
        mirror=host is not None,
        iter_time_ms=settings.encryption.LUKS_ITER_TIME.get(),
        deep=operation is matrix.Operation.REKEY_DEEP,
    )
    also = [vm] if vm is not None else []
    return record_operation(verb, volume, user, inputs, also=also, operation_id=operation_id)


def _check_hosts(volume: Volume, target: Pool, vm: Vm | None, host: Host | None, encrypted: bool) -> None:
    """A running VM's host must be able to mirror; else some host must be able to copy, and the VM to start again."""
    needs_encryption = encrypted or bool(volume.passphrase_id)
    if host is not None:
        rules.need(Function.ONLINE_COPY, host)
        for pool in (volume.pool, target):
            check_host(host, pool, needs_encryption)
        return
    host_jobs.check_host_available(volume.pool, needs_encryption, target)
    if vm is not None:
        check_startable(vm, volume, target, encrypted)


@workflow("volume.encrypt")
def _encrypt(run: Run) -> None:
    exchange(run)


@workflow("volume.migrate")
def _migrate(run: Run) -> None:
    exchange(run)


def exchange(run: Run) -> None:
    """The body of an operation that `record_exchange` recorded."""
    inputs = run.read(ExchangeInputs)
    host_lost = False
    with run.undoing() as undo:
        undo.push("discard", lambda: _discard(run, undo, inputs))
        if inputs.mirror:
            undo.push("cancel-mirror", lambda: _cancel_mirror(run, inputs))
            run.step("mirror", lambda: _mirror(run, inputs))
            host_lost = run.always("pivot", lambda: _pivot(run, inputs))
        else:
            host_id: str = run.step("choose", lambda: _choose(run, inputs))
            run.step("copy", lambda: _copy(run, host_id, inputs))
        undo.clear()
    run.always("switch", lambda: files.switch(run.resource_id, inputs.file_id))
    if host_lost:  # the sweeper asks the host when it is back, and only then removes the old file
        raise UnavailableError(
            "the VM's host was lost while the VM was switching to the volume's new file, which is complete and is the "
            "volume's from now on; Ostler removes the former file when the host is back",
            "PIVOT_UNRESOLVED",
        )
    files.remove_old(run, inputs.old_file_id)


def _choose(run: Run, inputs: ExchangeInputs) -> str:
    return host_jobs.choose_for_copy(run, load(run.resource_id), files.load(inputs.file_id))


def _copy(run: Run, host_id: str, inputs: ExchangeInputs) -> None:
    file = files.load(inputs.file_id)
    volume = load(run.resource_id)
    info = copy_file(run, host_id, volume, file, inputs.iter_time_ms, size_bytes=file.size_bytes)
    files.record_info(file.id, info)


def _mirror(run: Run, inputs: ExchangeInputs) -> None:
    file = files.load(inputs.file_id)
    request = volume_pb2.MirrorVolumeRequest(
        operation=run.ref(),
        vm_id=inputs.vm_id,
        source=wire.keyed_ref(load(run.resource_id), run.keys),
        target=wire.keyed_ref(file, run.keys, inputs.iter_time_ms),
        provisioning=wire.PROVISIONINGS[file.provisioning],
    )
    update = run.job(address_of(inputs.host_id), lambda agent: agent.volumes.MirrorVolume, request, (0, 95))
    files.record_info(file.id, update.volume)


def _pivot(run: Run, inputs: ExchangeInputs) -> bool:
    """Whether the host was lost, so that it is not known whether the VM has switched to the new file."""
    request = volume_pb2.PivotVolumeRequest(
        operation=run.ref(),
        vm_id=inputs.vm_id,
        source=wire.plain_ref(load(run.resource_id)),
        target=wire.plain_ref(files.load(inputs.file_id)),
    )
    try:
        run.job(address_of(inputs.host_id), lambda agent: agent.volumes.PivotVolume, request, (95, 98))
    except OstlerError as error:
        # A host that was removed cannot be asked either; if the VM did not switch, both files are equal.
        if error.reason not in ("HOST_UNREACHABLE", "HOST_REMOVED"):
            raise
        return True
    return False


def _cancel_mirror(run: Run, inputs: ExchangeInputs) -> None:
    volume, file = load(run.resource_id), files.load(inputs.file_id)
    if cancel_mirror(run, inputs.host_id, inputs.vm_id, volume, file):
        files.switch(run.resource_id, inputs.file_id)


def cancel_mirror(run: Run, host_id: str, vm_id: str, volume: Volume, file: VolumeFile) -> bool:
    """Inside a step: makes the host end a mirror; whether it was too late.

    Then the VM already writes to the new file alone, and that one is the right one, whatever went wrong.
    """
    request = volume_pb2.CancelMirrorRequest(
        operation=run.ref(), vm_id=vm_id, source=wire.plain_ref(volume), target=wire.plain_ref(file)
    )
    try:
        run.job(address_of(host_id), lambda agent: agent.volumes.CancelMirror, request)
    except OstlerError as error:
        if error.reason != "PIVOTED":
            raise
        return True
    return False


def _discard(run: Run, undo: Undo, inputs: ExchangeInputs) -> None:
    # A host that may still write to the file does so until it is asked again, which the sweeper does.
    if not undo.failed("cancel-mirror"):
        files.remove(run, inputs.file_id)
