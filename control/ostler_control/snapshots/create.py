"""Taking a snapshot: a copy of the volume's file under a key of its own, made by the VM's host while the VM runs."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import AlreadyExistsError

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address_of
from ostler_control.models import Operation, Pool, Snapshot, SnapshotSchedule, Volume, now
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.scheduling import placement_query
from ostler_control.snapshots.rows import destroy, load, load_or_none, note
from ostler_control.volumes import matrix, wire
from ostler_control.volumes.copying import choose_copying_host, copy_file
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import lock_with_vm

_STEM = 46  # so that the time, and a suffix if need be, fit into a name


@dataclass(frozen=True)
class NewSnapshot:
    """A snapshot that is wanted. name "": the volume's and the time; pool None: the volume's."""

    volume: Volume
    name: str = ""
    pool: Pool | None = None
    schedule: SnapshotSchedule | None = None


def create(wanted: NewSnapshot, user: str) -> Operation:
    """Records a new snapshot and the operation that takes it; the workflow makes its key before its file.

    Raises InvalidArgumentError; AlreadyExistsError SNAPSHOT_EXISTS; AbortedError RESOURCE_BUSY;
    FailedPreconditionError: VOLUME_STATE, NO_FEASIBLE_POOL, NO_CAPABLE_HOST, HOST_SILENT, VM_STATE, LACKS_POOL,
    LACKS_VOLUME_ENCRYPTION.
    """
    vm, volume = lock_with_vm(wanted.volume)
    check_ready(volume)
    name = _free_name(volume, wanted.name)
    encrypted = bool(volume.passphrase_id)
    pool: Any = wanted.pool or volume.pool
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
    inputs = {
        "volume_id": volume.id,
        "vm_id": vm.id if vm is not None and host is not None else "",
        "host_id": host.id if host is not None else "",
        "encrypted": encrypted,
        "iter_time_ms": settings.encryption.LUKS_ITER_TIME.get(),
    }
    return record_operation(
        "snapshot.create", snapshot, user, inputs, also=[vm, volume] if vm is not None else [volume]
    )


def _free_name(volume: Any, wanted: str) -> str:
    """The name that was asked for, or one of the volume's name and the time (UTC)."""
    taken: Any = Snapshot.select().where(Snapshot.account == volume.account_id)
    if wanted:
        if taken.where(Snapshot.name == check_name("name", wanted)).exists():
            raise AlreadyExistsError(
                f"there is a snapshot named {wanted} already; choose another name", "SNAPSHOT_EXISTS"
            )
        return wanted
    name = f"{volume.name[:_STEM]}-{now():%Y%m%d-%H%M%S}"
    return f"{name[:56]}-{secrets.token_hex(3)}" if taken.where(Snapshot.name == name).exists() else name


@workflow("snapshot.create")
def _create(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("settle", lambda: _settle(run, undo))
        host_id: str = run.step("prepare", lambda: _prepare(run))
        undo.push("remove", lambda: delete_file(run, host_id))
        run.step("copy", lambda: _copy(run, host_id))


def _prepare(run: Run) -> str:
    """The host that copies; and the key, which is in the database before the file is on any host."""
    with transaction():
        snapshot = load(run.resource_id)
        if run.inputs["encrypted"] and not snapshot.passphrase_id:
            key = run.keys.create(snapshot.volume_id)
            Snapshot.update(passphrase=key).where(Snapshot.id == snapshot.id).execute()
        if run.inputs["host_id"]:
            return str(run.inputs["host_id"])
        volume: Any = Volume.get_by_id(run.inputs["volume_id"])
        host_id: str = choose_host(volume.pool, run.inputs["encrypted"], run.agents.busy, snapshot.pool).id
        return host_id


def _copy(run: Run, host_id: str) -> None:
    with session():
        snapshot = load(run.resource_id)
        volume: Any = Volume.get_by_id(run.inputs["volume_id"])
    info = copy_file(run, host_id, volume, snapshot, vm_id=run.inputs["vm_id"])
    found = wire.encrypt_format(snapshot, info)
    with transaction():
        Snapshot.update(
            state="ready", encrypt_format=found, size_bytes=info.virtual_size_bytes or snapshot.size_bytes
        ).where(Snapshot.id == snapshot.id).execute()
        note(snapshot, "")


def delete_file(run: Run, host_id: str) -> None:
    """Inside a step: has the host delete the snapshot's file; one that is not there is a success."""
    snapshot = load_or_none(run.resource_id)
    if snapshot is not None:
        request = volume_pb2.DeleteVolumeRequest(operation=run.ref(), volume=wire.plain_ref(snapshot))
        run.job(address_of(host_id), lambda agent: agent.volumes.DeleteVolume, request)


def _settle(run: Run, undo: Undo) -> None:
    """Nothing stays of a snapshot that could not be taken, unless its half-made file does: then it is to be deleted."""
    with transaction():
        snapshot = load_or_none(run.resource_id)
        if snapshot is None:
            return
        note(snapshot, f"not taken: {undo.error}")
        if undo.failed("remove"):
            reason = f"not taken: {undo.error}"
            Snapshot.update(state="failed", state_reason=reason).where(Snapshot.id == snapshot.id).execute()
        else:
            destroy(snapshot, run)
