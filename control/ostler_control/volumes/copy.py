"""A new volume with the content of another one or of a snapshot, encrypted under a key of its own when that one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.units import format_size

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.keys import Keyring
from ostler_control.models import Account, DiskOffering, Operation, Pool, Snapshot, Volume, Zone, new_id
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.scheduling import placement_query
from ostler_control.volumes import matrix, wire
from ostler_control.volumes.copying import choose_copying_host, copy_file
from ostler_control.volumes.create import check_free_name, check_size, delete_file, needed_bytes, settle
from ostler_control.volumes.rows import load
from ostler_control.volumes.sources import load_source, lock_source_row


@dataclass(frozen=True)
class NewCopy:
    """A volume that is wanted. source: a Volume or a Snapshot.

    offering None: the source's, if that has one that still fits; size_bytes 0: the offering's, else the source's;
    pool None: the source's if it has room, else chosen, in `zone` if given.
    """

    name: str
    account: Account
    source: Volume | Snapshot
    offering: DiskOffering | None = None
    size_bytes: int = 0
    pool: Pool | None = None
    zone: Zone | None = None


@dataclass(frozen=True)
class _Layout:
    offering: Any
    size_bytes: int
    format: str
    provisioning: str


def copy(wanted: NewCopy, user: str, keys: Keyring) -> Operation:
    """Records a new volume and the operation that fills it.

    Raises InvalidArgumentError; AlreadyExistsError; AbortedError RESOURCE_BUSY; FailedPreconditionError:
    VOLUME_STATE, SNAPSHOT_STATE, ENCRYPTION_MISMATCH, NO_FEASIBLE_POOL, NO_CAPABLE_HOST, HOST_SILENT, VM_STATE,
    LACKS_POOL, LACKS_VOLUME_ENCRYPTION.
    """
    check_free_name(wanted.account, check_name("name", wanted.name))
    vm, source = lock_source_row(wanted.source)
    encrypted = bool(source.passphrase_id)
    layout = _layout(wanted, source)
    pool, host = _choose_pool(wanted, source, vm, needed_bytes(layout.provisioning, layout.size_bytes))
    what = matrix.Operation.COPY if isinstance(source, Volume) else matrix.Operation.FROM_SNAPSHOT
    matrix.check(what, source, host is not None, pool.type)
    volume_id = new_id()
    volume = Volume.create(
        id=volume_id,
        name=wanted.name,
        account=wanted.account,
        pool=pool,
        disk_offering=layout.offering,
        passphrase=keys.create(volume_id) if encrypted else None,
        size_bytes=layout.size_bytes,
        format=layout.format,
        provisioning=layout.provisioning,
    )
    inputs = {
        "source_kind": "volume" if isinstance(source, Volume) else "snapshot",
        "source_id": source.id,
        "vm_id": vm.id if vm is not None and host is not None else "",
        "host_id": host.id if host is not None else "",
        "iter_time_ms": settings.encryption.LUKS_ITER_TIME.get(),
    }
    return record_operation("volume.copy", volume, user, inputs, also=[vm, source] if vm is not None else [source])


def _layout(wanted: NewCopy, source: Any) -> _Layout:
    offering: Any = wanted.offering
    encrypted = bool(source.passphrase_id)
    if offering is None:
        origin = source if isinstance(source, Volume) else Volume.get_or_none(Volume.id == source.volume_id)
        offering = origin.disk_offering if origin is not None else None
        if offering is not None and (bool(offering.encrypt) != encrypted or offering.retire_time):
            offering = None
        smallest = check_size("size_bytes", wanted.size_bytes or source.size_bytes)
    elif bool(offering.encrypt) != encrypted:
        raise FailedPreconditionError(
            f"{source.name} is {'' if encrypted else 'not '}encrypted, and disk offering {offering.name} is "
            f"{'not' if encrypted else 'for encrypted volumes'}; choose another offering, or none",
            "ENCRYPTION_MISMATCH",
            {"offering": offering.name},
        )
    elif offering.size_bytes and wanted.size_bytes not in (0, offering.size_bytes):
        raise bad_field("size_bytes", f"the disk offering {offering.name} has a size of its own", "INVALID_SIZE")
    else:
        smallest = check_size("size_bytes", offering.size_bytes or wanted.size_bytes or source.size_bytes)
    if smallest < source.size_bytes:
        raise bad_field(
            "size_bytes",
            f"must be at least {format_size(source.size_bytes)}, the size of {source.name}",
            "INVALID_SIZE",
        )
    kind = offering if offering is not None else source
    return _Layout(offering, smallest, kind.format, getattr(kind, "provisioning", "thin"))


def _choose_pool(wanted: NewCopy, source: Any, vm: Any | None, needed: int) -> tuple[Any, Any | None]:
    """The best pool of those that would do and that a host can copy to, and that host if it can only be one."""
    encrypted = bool(source.passphrase_id)
    choices = placement_query.pools_for(
        wanted.name,
        needed,
        encrypted,
        pool_id=wanted.pool.id if wanted.pool else "",
        zone_id=wanted.zone.id if wanted.zone else "",
    )
    first: FailedPreconditionError | None = None
    for pool_id in sorted(choices, key=lambda pool_id: pool_id != source.pool_id):
        pool = Pool.get_by_id(pool_id)
        try:
            return pool, choose_copying_host(source.pool, pool, encrypted, vm)
        except FailedPreconditionError as error:
            first = first or error
    assert first is not None
    raise first


@workflow("volume.copy")
def _copy(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("settle", lambda: settle(run, undo))
        host_id: str = run.inputs["host_id"] or run.step("choose", lambda: _choose(run))
        undo.push("remove", lambda: delete_file(run, host_id, run.resource_id))
        run.step("copy", lambda: _fill(run, host_id))


def _choose(run: Run) -> str:
    with session():
        source, target = load_source(run), load(run.resource_id)
        host_id: str = choose_host(source.pool, bool(source.passphrase_id), run.agents.busy, target.pool).id
        return host_id


def _fill(run: Run, host_id: str) -> None:
    volume = load(run.resource_id)
    info = copy_file(run, host_id, load_source(run), volume, size_bytes=volume.size_bytes, vm_id=run.inputs["vm_id"])
    found = wire.encrypt_format(volume, info)
    with transaction():
        Volume.update(state="ready", state_reason="", encrypt_format=found).where(Volume.id == volume.id).execute()
