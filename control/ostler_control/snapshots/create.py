"""Creating a snapshot: a copy of the volume's file under its own key, by the VM's host while the VM runs."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from ostler.types.v1 import volume_pb2
from ostler_common.errors import AlreadyExistsError

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.keys import Keyring
from ostler_control.models import Host, Operation, Pool, Snapshot, SnapshotConsistency, SnapshotSchedule, Volume, now
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.scheduling import placement_query
from ostler_control.snapshots.rows import destroy, load, load_or_none, record_last_error
from ostler_control.states import SnapshotState
from ostler_control.volumes import consistency, host_jobs, matrix, wire
from ostler_control.volumes.copying import choose_copying_host, copy_file
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import lock_with_vm

# So that the time, and a suffix if need be, still fit into a name of 63 characters.
_MAX_VOLUME_NAME_PART, _MAX_NAME_BEFORE_SUFFIX = 46, 56


@dataclass(frozen=True)
class NewSnapshot:
    """A requested snapshot. name "": the volume's and the time; pool None: the volume's."""

    volume: Volume
    name: str = ""
    pool: Pool | None = None
    schedule: SnapshotSchedule | None = None


@dataclass(frozen=True)
class SnapshotInputs:
    """host_id, vm_id: the VM that runs with the volume and its host, "" when none does."""

    volume_id: str
    vm_id: str
    host_id: str
    encrypted: bool
    iter_time_ms: int


def create(wanted: NewSnapshot, user: str) -> Operation:
    """Records a new snapshot and the operation that fills it; the workflow creates its key before its file.

    Raises InvalidArgumentError; AlreadyExistsError SNAPSHOT_EXISTS; AbortedError RESOURCE_BUSY;
    FailedPreconditionError: VOLUME_STATE, NO_FEASIBLE_POOL, NO_CAPABLE_HOST, HOST_SILENT, VM_STATE, LACKS_POOL,
    LACKS_VOLUME_ENCRYPTION; ResourceExhaustedError QUOTA_EXCEEDED.
    """
    vm, volume = lock_with_vm(wanted.volume)
    check_ready(volume)
    name = _free_name(volume, wanted.name)
    check_quota(volume.account_id, Resources(snapshots=1))
    encrypted = bool(volume.passphrase_id)
    pool = wanted.pool or volume.pool
    placement_query.pools_for(name, 0, encrypted, pool_id=pool.id)
    host = choose_copying_host(volume.pool, pool, encrypted, vm)
    matrix.check(matrix.Operation.SNAPSHOT, volume, host is not None, pool.type)
    snapshot = Snapshot.create(
        name=name,
        account=volume.account_id,
        volume_id=volume.id,
        schedule=wanted.schedule,
        pool=pool,
        size_bytes=volume.size_bytes,
        online=host is not None,
    )
    inputs = SnapshotInputs(
        volume_id=volume.id,
        vm_id=vm.id if vm is not None and host is not None else "",
        host_id=host.id if host is not None else "",
        encrypted=encrypted,
        iter_time_ms=settings.encryption.LUKS_ITER_TIME.get(),
    )
    also = [vm, volume] if vm is not None else [volume]
    return record_operation("snapshot.create", snapshot, user, inputs, also=also)


def _free_name(volume: Volume, wanted: str) -> str:
    """The requested name, or one of the volume's name and the time (UTC)."""
    existing = Snapshot.select().where(Snapshot.account == volume.account_id)
    if wanted:
        if existing.where(Snapshot.name == check_name("name", wanted)).exists():
            raise AlreadyExistsError(
                f"a snapshot named {wanted} already exists; choose another name", "SNAPSHOT_EXISTS"
            )
        return wanted
    name = f"{volume.name[:_MAX_VOLUME_NAME_PART]}-{now():%Y%m%d-%H%M%S}"
    if existing.where(Snapshot.name == name).exists():
        return f"{name[:_MAX_NAME_BEFORE_SUFFIX]}-{secrets.token_hex(3)}"
    return name


@workflow("snapshot.create")
def _create(run: Run) -> None:
    inputs = run.read(SnapshotInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        host_id: str = run.step("prepare", lambda: _prepare(run, inputs))
        undo.push("remove", lambda: delete_file(run, host_id))
        run.step("copy", lambda: _copy(run, host_id, inputs))


def _prepare(run: Run, inputs: SnapshotInputs) -> str:
    """Creates the key, so that it is in the database before the file is on any host; returns the id of the host that
    copies."""
    with transaction():
        snapshot = load(run.resource_id)
        if inputs.encrypted and not snapshot.passphrase_id:
            _create_key(snapshot, run.keys)
        if inputs.host_id:
            return inputs.host_id
        volume = Volume.get_by_id(inputs.volume_id)
        host: Host = choose_host(volume.pool, inputs.encrypted, run.agents.busy, snapshot.pool)
        return host.id


def _create_key(snapshot: Snapshot, keys: Keyring) -> None:
    key = keys.create(snapshot.volume_id)
    Snapshot.update(passphrase=key).where(Snapshot.id == snapshot.id).execute()


def _copy(run: Run, host_id: str, inputs: SnapshotInputs) -> None:
    with session():
        snapshot = load(run.resource_id)
        volume = Volume.get_by_id(inputs.volume_id)
    info = copy_file(run, host_id, volume, snapshot, inputs.iter_time_ms, vm_id=inputs.vm_id)
    with transaction():
        record_info(snapshot, info)
        record_last_error(snapshot, "")


def record_info(snapshot: Snapshot, info: volume_pb2.VolumeInfo) -> None:
    """The snapshot is complete; records what the host says of it: within the caller's transaction.

    The step may be a repetition. Raises InternalError ENCRYPTION_MISSING.
    """
    Snapshot.update(
        state=SnapshotState.READY,
        encrypt_format=wire.encrypt_format(snapshot, info),
        size_bytes=info.virtual_size_bytes or snapshot.size_bytes,
    ).where(Snapshot.id == snapshot.id).execute()
    SnapshotConsistency.delete().where(SnapshotConsistency.snapshot == snapshot.id).execute()
    if fields := consistency.recorded(info):
        SnapshotConsistency.create(snapshot=snapshot, **fields)


def delete_file(run: Run, host_id: str) -> None:
    """Inside a step: makes the host delete the snapshot's file; one that is not there is a success."""
    snapshot = load_or_none(run.resource_id)
    if snapshot is not None:
        host_jobs.delete_file(run, host_id, snapshot)


def _record_failure(run: Run, undo: Undo) -> None:
    """Nothing stays of a failed snapshot, unless its incomplete file does: then its row stays, to be deleted."""
    with transaction():
        snapshot = load_or_none(run.resource_id)
        if snapshot is None:
            return
        reason = f"not created: {undo.error}"
        record_last_error(snapshot, reason)
        if undo.failed("remove"):
            Snapshot.update(state=SnapshotState.FAILED, state_reason=reason).where(Snapshot.id == snapshot.id).execute()
        else:
            destroy(snapshot, run)
