"""A volume's further files: made to take the present one's place, or replaced by it and to go.

New data or a new key is always a new file. `record_file` records it, with its passphrase, in the transaction that
records the operation, so before any host has heard of it; a host fills it, `filled` notes what it has become; `switch`
exchanges it with the volume's present file in one transaction; `remove` has a file deleted, and only then its row and
passphrase. So a crash at any line leaves a volume that opens with a key that the database has, and what is left over
is known by its row: `sweep` removes it once its operation is over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import volume_pb2
from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError

from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address_of, has_hosts
from ostler_control.hypervisors.supported import check_pool_format
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import destroy
from ostler_control.models import Host, Operation, Passphrase, Pool, Volume, VolumeFile, now
from ostler_control.operations import Run
from ostler_control.scheduling import placement_query
from ostler_control.volumes import wire
from ostler_control.volumes.create import needed_bytes

# What a volume and a file of it have in common, and exchange.
_SHARED = ("pool_id", "passphrase_id", "format", "provisioning", "encrypt_format", "size_bytes")


def record_file(
    volume: Any,
    operation_id: str,
    keys: Keyring,
    *,
    encrypted: bool,
    role: str = "incoming",
    pool: Any = None,
    key: Any = None,
    **layout: Any,
) -> Any:
    """Records a further file of a volume, before it is made: in the transaction that records operation `operation_id`.

    pool None: the volume's; key: a Passphrase row made in this transaction, by default a new one if `encrypted`;
    layout: format, provisioning, size_bytes if other than the volume's.
    Raises FailedPreconditionError NO_FEASIBLE_POOL when the pool has no room or cannot hold encrypted volumes,
    FORMAT_NOT_SUPPORTED.
    """
    pool = pool or volume.pool
    check_pool_format(pool, layout.get("format", volume.format))
    values = {name: layout.get(name, getattr(volume, name)) for name in ("format", "provisioning", "size_bytes")}
    placement_query.pools_for(
        f"a new file of volume {volume.name}",
        needed_bytes(values["provisioning"], values["size_bytes"]),
        encrypted,
        pool_id=pool.id,
    )
    if encrypted and key is None:
        key = keys.create(volume.id)
    return VolumeFile.create(
        volume_id=volume.id, role=role, operation_id=operation_id, pool=pool, passphrase=key, **values
    )


def load(file_id: str) -> Any:
    """A file's row."""
    with session():
        return VolumeFile.get_by_id(file_id)


def load_or_none(file_id: str) -> Any | None:
    """A file's row, or None when it is gone (or has become the volume's)."""
    with session():
        return VolumeFile.get_or_none(VolumeFile.id == file_id)


def record_info(file_id: str, info: volume_pb2.VolumeInfo) -> None:
    """Inside a step: notes what a host has made of a file. Raises InternalError ENCRYPTION_MISSING."""
    file = load(file_id)
    found = wire.encrypt_format(file, info)
    size_bytes = info.virtual_size_bytes or file.size_bytes
    with transaction():
        VolumeFile.update(encrypt_format=found, size_bytes=size_bytes).where(VolumeFile.id == file_id).execute()


def switch(volume_id: str, file_id: str, **changes: Any) -> None:
    """Inside a step: the file becomes the volume's, and the present one outgoing, in one transaction. Repeatable.

    changes: columns of the volume that change with it.
    """
    with transaction():
        volume: Any = Volume.get_by_id(volume_id)
        if volume.file_id == file_id:
            return
        file: Any = VolumeFile.get_by_id(file_id)
        old = {name: getattr(volume, name) for name in _SHARED}
        new = {name: getattr(file, name) for name in _SHARED}
        VolumeFile.delete().where(VolumeFile.id == file_id).execute()
        VolumeFile.create(
            id=volume.file_id, volume_id=volume_id, role="outgoing", operation_id=file.operation_id, **old
        )
        Volume.update(file_id=file_id, state_reason="", update_time=now(), **new, **changes).where(
            Volume.id == volume_id
        ).execute()


def remove(run: Run, file_id: str) -> None:
    """Inside a step: has a host that reaches the file delete it, then forgets it. One that is gone is a success.

    Raises FailedPreconditionError NO_CAPABLE_HOST, or what the agent raises: then the file keeps its row, and is swept
    once the operation is over.
    """
    file = load_or_none(file_id)
    if file is None:
        return
    with session():
        pool = Pool.get_by_id(file.pool_id)
        host_id = choose_host(pool, False, run.agents.busy).id if has_hosts(pool.id) else ""
    if host_id:
        request = agent_pb2.DeleteVolumeRequest(operation=run.ref(), volume=wire.plain_ref(file))
        run.job(address_of(host_id), lambda agent: agent.volumes.DeleteVolume, request)
    forget(run, file_id)


def remove_old(run: Run, file_id: str) -> None:
    """After a switch: `remove` as a step of its own. file_id: the volume's file before.

    Raises AbortedError OLD_FILE_LEFT, whatever the cause: the volume is as it should be, and what is left is swept.
    """
    try:
        run.always("remove-old", lambda: remove(run, file_id))
    except OstlerError as error:
        raise AbortedError(
            f"done, but the volume's former file could not be removed yet, which is tried again by itself: {error}",
            "OLD_FILE_LEFT",
            {"file": file_id},
        ) from error


def forget(run: Run, file_id: str) -> None:
    """Inside a step: deletes the row of a file that is gone, and its passphrase, which is recorded as an event."""
    with session():
        file: Any = VolumeFile.get_or_none(VolumeFile.id == file_id)
        if file is None:
            return
        volume = volume_of(file)
    # Before the transaction: passphrases may have to be opened by somebody on the network.
    kept = _same_key(file, volume, run.keys)
    with transaction():
        if VolumeFile.delete().where(VolumeFile.id == file_id).execute() != 1:
            return
        if kept:  # by a move that keeps the key: nothing is destroyed but a second row of it
            Passphrase.delete().where(Passphrase.id == file.passphrase_id).execute()
        else:
            destroy(file.passphrase_id, run.user, volume, f"{_what(file)} is gone, and its key destroyed")


def _same_key(file: Any, volume: Any, keys: Keyring) -> bool:
    both = file.passphrase_id and volume.passphrase_id
    return bool(both) and keys.open(file).reveal() == keys.open(volume).reveal()


def host_with_unresolved_mirror(file: Any) -> str:
    """Id of the host that must be asked which file a VM uses before this one may be deleted, or "".

    That is so after an operation on a running VM's disk that could not end its mirror, or not learn whether the VM went
    over to it.
    """
    last: Any = Operation.get_or_none(Operation.id == file.operation_id)
    inputs: dict[str, Any] = json.loads(last.inputs) if last is not None else {}
    if not inputs.get("mirror"):
        return ""
    if file.role != "incoming" and last.verb != "volume.sweep" and "PIVOT_UNRESOLVED" not in last.error:
        return ""
    return str(inputs["host_id"])


def check_mirrors_resolved(volumes: Iterable[Any]) -> None:
    """Raises FailedPreconditionError MIRROR_UNRESOLVED while it is not known which file of one of these volumes its VM
    has used last: nobody may use either until its host has told."""
    by_id = {volume.id: volume for volume in volumes}
    left = VolumeFile.select().where(
        VolumeFile.volume_id.in_(list(by_id)), VolumeFile.role.in_(("incoming", "outgoing"))
    )
    for file in left:
        host: Any = Host.get_or_none((Host.id == host_with_unresolved_mirror(file)) & ~Host.removed)
        if host is not None:
            raise FailedPreconditionError(
                f"host {host.name} fell silent when volume {by_id[file.volume_id].name} was to go over to a new file; "
                "it is asked as soon as it answers, then try again (or remove it, if it is dead for good)",
                "MIRROR_UNRESOLVED",
                {"volume": file.volume_id, "host": host.name},
            )


def volume_of(file: Any) -> Any:
    """The volume that a file belongs to; one without name and account when it is gone."""
    volume = Volume.get_or_none(Volume.id == file.volume_id)
    return volume or Volume(id=file.volume_id, name="", account=None)


def _what(file: Any) -> str:
    words = {
        "incoming": "a file that was not put to use",
        "outgoing": "the former file",
        "export": "an exported copy",
        "upload": "an upload",
    }
    return words.get(file.role, "a further key")
