"""Making a data volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import AlreadyExistsError, CancelledError, FailedPreconditionError, bad_field

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors.supported import check_pool_format
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import Account, DiskOffering, Operation, Pool, Volume, Zone, new_id
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.scheduling import placement_query
from ostler_control.volumes import matrix, wire
from ostler_control.volumes.rows import load, load_or_none

MIB = 1 << 20
MAX_SIZE_BYTES = 64 << 40


@dataclass(frozen=True)
class NewVolume:
    """A volume that is wanted. size_bytes: only for an offering without one; pool None: chosen, in `zone` if given."""

    name: str
    account: Account
    offering: DiskOffering
    size_bytes: int = 0
    pool: Pool | None = None
    zone: Zone | None = None


def check_size(field: str, size_bytes: int) -> int:
    """Returns a volume's size; InvalidArgumentError when it is none."""
    if size_bytes <= 0 or size_bytes % MIB or size_bytes > MAX_SIZE_BYTES:
        raise bad_field(field, f"must be a multiple of 1 MiB, at most {MAX_SIZE_BYTES >> 40} TiB", "INVALID_SIZE")
    return size_bytes


def check_free_name(account: Account, name: str) -> str:
    """Returns the name; AlreadyExistsError when a volume of the account has it."""
    if Volume.select().where((Volume.account == account) & (Volume.name == name)).exists():
        raise AlreadyExistsError(
            f"account {account.name} has a volume named {name} already; choose another name", "VOLUME_EXISTS"
        )
    return name


def create(wanted: NewVolume, user: str, keys: Keyring) -> Operation:
    """Records a new volume and the operation that makes it.

    Raises InvalidArgumentError, AlreadyExistsError, or FailedPreconditionError NO_FEASIBLE_POOL, NO_CAPABLE_HOST
    or FORMAT_NOT_SUPPORTED.
    """
    volume = insert(wanted, keys, matrix.Operation.CREATE)
    inputs = {"iter_time_ms": settings.encryption.LUKS_ITER_TIME.get()}
    return record_operation("volume.create", volume, user, inputs)


def insert(wanted: NewVolume, keys: Keyring, what: matrix.Operation) -> Any:
    """The row of a new data volume, with its passphrase: within the caller's transaction. Raises what `create` does."""
    check_free_name(wanted.account, check_name("name", wanted.name))
    offering = wanted.offering
    if offering.size_bytes and wanted.size_bytes not in (0, offering.size_bytes):
        raise bad_field("size_bytes", f"the disk offering {offering.name} has a size of its own", "INVALID_SIZE")
    size_bytes = check_size("size_bytes", offering.size_bytes or wanted.size_bytes)
    pool = _choose_pool(wanted, needed_bytes(offering.provisioning, size_bytes))
    check_pool_format(pool, offering.format)
    volume_id = new_id()
    volume = Volume.create(
        id=volume_id,
        name=wanted.name,
        account=wanted.account,
        pool=pool,
        disk_offering=offering,
        passphrase=keys.create(volume_id) if offering.encrypt else None,
        size_bytes=size_bytes,
        format=offering.format,
        provisioning=offering.provisioning,
    )
    matrix.check(what, volume, False)
    return volume


def needed_bytes(provisioning: str, size_bytes: int) -> int:
    """Space that must be free before a volume is made; what grows later is the operator's to watch."""
    return size_bytes if provisioning == "thick" else 0


def _choose_pool(wanted: NewVolume, needed: int) -> Any:
    """The best pool of those that would do and that a host can work on now."""
    choices = placement_query.pools_for(
        wanted.name,
        needed,
        wanted.offering.encrypt,
        pool_id=wanted.pool.id if wanted.pool else "",
        zone_id=wanted.zone.id if wanted.zone else "",
    )
    first: FailedPreconditionError | None = None
    for pool_id in choices:
        pool = Pool.get_by_id(pool_id)
        try:
            choose_host(pool, wanted.offering.encrypt, lambda _: 0)
        except FailedPreconditionError as error:
            first = first or error
        else:
            return pool
    assert first is not None
    raise first


@workflow("volume.create")
def _create(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("settle", lambda: settle(run, undo))
        host_id: str = run.step("choose", lambda: choose(run))
        undo.push("remove", lambda: delete_file(run, host_id, run.resource_id))
        run.step("create", lambda: create_file(run, host_id, run.resource_id, run.inputs["iter_time_ms"]))


def choose(run: Run) -> str:
    """Inside a step: the host to make the operation's volume."""
    with session():
        volume = load(run.resource_id)
        host_id: str = choose_host(volume.pool, bool(volume.passphrase_id), run.agents.busy).id
        return host_id


def create_file(
    run: Run,
    host_id: str,
    volume_id: str,
    iter_time_ms: int,
    share: tuple[int, int] = (0, 100),
    source: volume_pb2.TemplateSource | None = None,
) -> None:
    """Inside a step: has the host make the volume's file, and records what it is.

    source: what it is filled with; None: its template, or nothing when it has none.
    """
    with session():
        volume = load(volume_id)
        template = volume.template
    request = volume_pb2.CreateVolumeRequest(
        operation=run.ref(),
        volume=wire.keyed_ref(volume, run.keys, iter_time_ms),
        size_bytes=volume.size_bytes,
        provisioning=wire.PROVISIONINGS[volume.provisioning],
        template=source or wire.template_source(template, run.keys),
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.CreateVolume, request, share)
    found = wire.encrypt_format(volume, update.volume)
    with transaction():
        # What is raw on an array is as large as the array makes it.
        size_bytes = max(volume.size_bytes, update.volume.virtual_size_bytes)
        Volume.update(state="ready", state_reason="", encrypt_format=found, size_bytes=size_bytes).where(
            Volume.id == volume_id
        ).execute()


def delete_file(run: Run, host_id: str, volume_id: str, pool_id: str = "") -> None:
    """Inside a step: has the host delete the volume's file; one that is not there is a success."""
    volume = load_or_none(volume_id)
    if volume is None:
        return
    request = volume_pb2.DeleteVolumeRequest(operation=run.ref(), volume=wire.plain_ref(volume, pool_id))
    run.job(address_of(host_id), lambda agent: agent.volumes.DeleteVolume, request)


def settle(run: Run, undo: Undo) -> None:
    """Undoes a new volume's row. Cancelled and cleaned away: nothing stays. Else it stays to be looked at, and to be
    deleted."""
    clean = not undo.failed("remove")
    with transaction():
        volume = Volume.get_or_none(Volume.id == run.resource_id)
        if volume is None:
            return
        if clean and isinstance(undo.error, CancelledError):
            delete_volume(volume, run.user)
        else:
            Volume.update(state="failed", state_reason=str(undo.error)).where(Volume.id == volume.id).execute()
