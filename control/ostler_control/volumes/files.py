"""A volume's further files: created to replace the current one, or replaced by it and to be deleted.

New data or a new key is always a new file:

1. `record_file` records it, with its passphrase, in the transaction that records the operation: before any host knows
   of it.
2. A host fills it, and `record_info` records what it has become.
3. `switch` makes it the volume's file, and the former one outgoing, in one transaction.
4. `remove` makes a host delete a file, and only then deletes its row and passphrase.

So a crash at any line leaves a volume that opens with a key in the database. What is left over is known by its row,
and `sweep` removes it once its operation is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from ostler.types.v1 import volume_pb2
from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError

from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.database import session, transaction
from ostler_control.hypervisors.supported import check_pool_format
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_passphrase, destroy
from ostler_control.models import Host, Operation, Passphrase, Pool, Volume, VolumeFile, now
from ostler_control.operations import Run, read_inputs
from ostler_control.scheduling import placement_query
from ostler_control.volumes import host_jobs, wire
from ostler_control.volumes.new_volume import required_bytes

# What a volume and a file of it have in common, and exchange.
_SHARED_COLUMNS = ("pool_id", "passphrase_id", "format", "provisioning", "encrypt_format", "size_bytes")


@dataclass(frozen=True)
class MirrorInputs:
    """What the inputs of an operation say of a mirror under a running VM. Operations without one lack both fields."""

    mirror: bool = False
    host_id: str = ""


def record_file(
    volume: Volume,
    operation_id: str,
    keys: Keyring,
    *,
    encrypted: bool,
    pool: Pool | None = None,
    key: Passphrase | None = None,
    size_bytes: int = 0,
) -> VolumeFile:
    """Records a file that is to replace a volume's: in the transaction that records operation `operation_id`.

    pool None: the volume's; key: a row inserted in this transaction, by default a new one if `encrypted`; size_bytes 0:
    the volume's.
    Raises FailedPreconditionError: NO_FEASIBLE_POOL when the pool has no room or cannot hold encrypted volumes,
    FORMAT_NOT_SUPPORTED; ResourceExhaustedError QUOTA_EXCEEDED.
    """
    pool, size_bytes = pool or volume.pool, size_bytes or volume.size_bytes
    check_quota(volume.account_id, Resources(storage_bytes=size_bytes - volume.size_bytes))
    check_pool_format(pool, volume.format)
    placement_query.pools_for(
        f"a new file of volume {volume.name}",
        required_bytes(volume.provisioning, size_bytes),
        encrypted,
        pool_id=pool.id,
    )
    if encrypted and key is None:
        key = keys.create(volume.id)
    return VolumeFile.create(
        volume_id=volume.id,
        role="incoming",
        operation_id=operation_id,
        pool=pool,
        passphrase=key,
        format=volume.format,
        provisioning=volume.provisioning,
        size_bytes=size_bytes,
    )


def load(file_id: str) -> VolumeFile:
    """A file's row."""
    with session():
        return VolumeFile.get_by_id(file_id)


def load_or_none(file_id: str) -> VolumeFile | None:
    """A file's row, or None when it is gone (or has become the volume's)."""
    with session():
        return VolumeFile.get_or_none(VolumeFile.id == file_id)


def record_info(file_id: str, info: volume_pb2.VolumeInfo) -> None:
    """Inside a step: records what a host has written into a file. Raises InternalError ENCRYPTION_MISSING."""
    file = load(file_id)
    found = wire.encrypt_format(file, info)
    size_bytes = info.virtual_size_bytes or file.size_bytes
    with transaction():
        VolumeFile.update(encrypt_format=found, size_bytes=size_bytes).where(VolumeFile.id == file_id).execute()


def switch(volume_id: str, file_id: str, **columns: object) -> None:
    """Inside a step: makes the file the volume's, and the current one outgoing, in one transaction. Idempotent.

    columns: further columns of the volume that change with it.
    """
    with transaction():
        volume = Volume.get_by_id(volume_id)
        if volume.file_id == file_id:
            return
        file = VolumeFile.get_by_id(file_id)
        old = {name: getattr(volume, name) for name in _SHARED_COLUMNS}
        new = {name: getattr(file, name) for name in _SHARED_COLUMNS}
        VolumeFile.delete().where(VolumeFile.id == file_id).execute()
        VolumeFile.create(
            id=volume.file_id, volume_id=volume_id, role="outgoing", operation_id=file.operation_id, **old
        )
        Volume.update(file_id=file_id, state_reason="", update_time=now(), **new, **columns).where(
            Volume.id == volume_id
        ).execute()


def switch_all(pairs: Iterable[tuple[str, str]]) -> None:
    """Inside a step: `switch` for each volume and file, all in one transaction. Idempotent."""
    with transaction():
        for volume_id, file_id in pairs:
            switch(volume_id, file_id)


def remove(run: Run, file_id: str) -> None:
    """Inside a step: makes a host delete the file, then forgets it. A file without a row is a success.

    Raises FailedPreconditionError NO_CAPABLE_HOST, or what the agent raises: then the file keeps its row, and is swept
    once the operation is over.
    """
    file = load_or_none(file_id)
    if file is None:
        return
    host_id = host_jobs.choose_to_delete(run, file)
    if host_id:
        host_jobs.delete_file(run, host_id, file)
    forget(run, file_id)


def remove_old(run: Run, file_id: str) -> None:
    """After a switch: `remove` as its own step. file_id: the volume's former file.

    Raises AbortedError OLD_FILE_NOT_REMOVED, whatever the cause: the volume itself is fine, and the file is swept.
    """
    try:
        run.always("remove-old", lambda: remove(run, file_id))
    except OstlerError as error:
        raise AbortedError(
            f"the volume has its new file, but the former one could not be removed yet; Ostler retries this: {error}",
            "OLD_FILE_NOT_REMOVED",
            {"file": file_id},
        ) from error


def remove_all_old(run: Run, file_ids: Iterable[str]) -> None:
    """After `switch_all`: `remove` for each former file, as a step of its own.

    Raises AbortedError OLD_FILE_NOT_REMOVED: the VM itself is fine, and the files are swept.
    """
    left: list[str] = []
    for number, file_id in enumerate(file_ids):
        try:
            run.always(f"remove-old-{number}", partial(remove, run, file_id))
        except OstlerError as error:
            left.append(str(error))
    if left:
        raise AbortedError(
            "the VM has its new disks, but not all of its former files could be removed yet; Ostler retries this: "
            + "; ".join(left),
            "OLD_FILE_NOT_REMOVED",
        )


def forget(run: Run, file_id: str) -> None:
    """Inside a step: deletes the row of a file that is gone, and its passphrase, which is recorded as an event."""
    with session():
        file = VolumeFile.get_or_none(VolumeFile.id == file_id)
        if file is None:
            return
        volume = volume_of(file)
    # Before the transaction: opening passphrases may need the network.
    same_key = _has_key_of(volume, file, run.keys)
    with transaction():
        if VolumeFile.delete().where(VolumeFile.id == file_id).execute() != 1:
            return
        if same_key:  # a move that kept the key: only a second row of it is deleted
            delete_passphrase(file.passphrase_id)
        else:
            message = f"{_describe(file)} is gone, and its key destroyed"
            destroy(file.passphrase_id, run.user, volume, message, run.id)


def destroy_file(file: VolumeFile, actor: str) -> None:
    """Deletes the row and the key of a file that is gone or lost: within the caller's transaction."""
    VolumeFile.delete().where(VolumeFile.id == file.id).execute()
    destroy(file.passphrase_id, actor, volume_of(file), f"{_describe(file)} is gone, and its key destroyed")


def _has_key_of(volume: Volume, file: VolumeFile, keys: Keyring) -> bool:
    both = file.passphrase_id and volume.passphrase_id
    return bool(both) and keys.open(file).reveal() == keys.open(volume).reveal()


def host_with_unresolved_mirror(file: VolumeFile) -> str:
    """Id of the host that must say which file its VM uses before this one may be deleted, or "".

    That is so after an operation on a running VM's disk that could not end its mirror, or could not learn whether the
    VM switched to the new file.
    """
    last = Operation.get_or_none(Operation.id == file.operation_id)
    inputs = read_inputs(MirrorInputs, last) if last is not None else MirrorInputs()
    if last is None or not inputs.mirror:
        return ""
    if file.role != "incoming" and last.verb != "volume.sweep" and "PIVOT_UNRESOLVED" not in last.error:
        return ""
    return inputs.host_id


def check_mirrors_resolved(volumes: Iterable[Volume]) -> None:
    """Raises FailedPreconditionError MIRROR_UNRESOLVED while it is not known which file of one of these volumes its VM
    used last: until its host has said so, nobody may use either."""
    by_id = {volume.id: volume for volume in volumes}
    left = VolumeFile.select().where(
        VolumeFile.volume_id.in_(list(by_id)), VolumeFile.role.in_(("incoming", "outgoing"))
    )
    for file in left:
        host = Host.get_or_none((Host.id == host_with_unresolved_mirror(file)) & ~Host.removed)
        if host is not None:
            raise FailedPreconditionError(
                f"host {host.name} was lost while volume {by_id[file.volume_id].name} was switching to a new file; "
                "Ostler asks it which file is current as soon as it is back: try again then (or remove the host if it "
                "is dead for good)",
                "MIRROR_UNRESOLVED",
                {"volume": file.volume_id, "host": host.name},
            )


def volume_of(file: VolumeFile) -> Volume:
    """The volume that a file belongs to; an unsaved one without name and account when it is gone."""
    volume = Volume.get_or_none(Volume.id == file.volume_id)
    return volume or Volume(id=file.volume_id, name="", account=None)


def _describe(file: VolumeFile) -> str:
    words = {
        "incoming": "a file that was never used",
        "outgoing": "the former file",
        "export": "an exported copy",
        "upload": "an upload",
    }
    return words.get(file.role, "a further key")
