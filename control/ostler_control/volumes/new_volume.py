"""The row of a new data volume: its name, its size, its pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, bad_field

from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.hypervisors.supported import check_pool_format
from ostler_control.keys import Keyring
from ostler_control.models import Account, DiskOffering, Pool, Volume, Zone, new_id
from ostler_control.scheduling import placement_query
from ostler_control.volumes import matrix
from ostler_control.volumes.host_jobs import check_host_available

T = TypeVar("T")

MIB = 1 << 20
MAX_SIZE_BYTES = 64 << 40


@dataclass(frozen=True)
class NewVolume:
    """A requested volume. size_bytes: only for an offering without one; pool None: chosen, in `zone` if given."""

    name: str
    account: Account
    offering: DiskOffering
    size_bytes: int = 0
    pool: Pool | None = None
    zone: Zone | None = None


def check_size(field: str, size_bytes: int) -> int:
    """Returns a volume's size. Raises InvalidArgumentError INVALID_SIZE."""
    if size_bytes <= 0 or size_bytes % MIB or size_bytes > MAX_SIZE_BYTES:
        raise bad_field(field, f"must be a multiple of 1 MiB, at most {MAX_SIZE_BYTES >> 40} TiB", "INVALID_SIZE")
    return size_bytes


def check_free_name(account: Account, name: str) -> str:
    """Returns the name. Raises AlreadyExistsError VOLUME_EXISTS when a volume of the account has it."""
    if Volume.select().where((Volume.account == account) & (Volume.name == name)).exists():
        raise AlreadyExistsError(
            f"account {account.name} already has a volume named {name}; choose another name", "VOLUME_EXISTS"
        )
    return name


def required_bytes(provisioning: str, size_bytes: int) -> int:
    """Space that must be free before a file is created. Thin and sparse files grow later, which operators watch."""
    return size_bytes if provisioning == "thick" else 0


def insert(wanted: NewVolume, keys: Keyring, operation: matrix.Operation) -> Volume:
    """Inserts the row of a new data volume, with its passphrase: within the caller's transaction.

    Raises InvalidArgumentError, AlreadyExistsError VOLUME_EXISTS, FailedPreconditionError: NO_FEASIBLE_POOL,
    NO_CAPABLE_HOST, FORMAT_NOT_SUPPORTED; ResourceExhaustedError QUOTA_EXCEEDED.
    """
    check_free_name(wanted.account, check_name("name", wanted.name))
    offering = wanted.offering
    if offering.size_bytes and wanted.size_bytes not in (0, offering.size_bytes):
        raise bad_field("size_bytes", f"disk offering {offering.name} has a fixed size", "INVALID_SIZE")
    size_bytes = check_size("size_bytes", offering.size_bytes or wanted.size_bytes)
    check_quota(wanted.account.id, Resources(volumes=1, storage_bytes=size_bytes))
    pool = _choose_pool(wanted, required_bytes(offering.provisioning, size_bytes))
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
    matrix.check(operation, volume, False)
    return volume


def _choose_pool(wanted: NewVolume, needed: int) -> Pool:
    """The best of the feasible pools in which a host can work now."""
    encrypted = wanted.offering.encrypt
    choices = placement_query.pools_for(
        wanted.name,
        needed,
        encrypted,
        pool_id=wanted.pool.id if wanted.pool else "",
        zone_id=wanted.zone.id if wanted.zone else "",
    )
    return first_accepted(choices, lambda pool: check_host_available(pool, encrypted))[0]


def first_accepted(pool_ids: Iterable[str], check: Callable[[Pool], T]) -> tuple[Pool, T]:
    """The first of these pools for which `check` does not raise, with its answer.

    pool_ids: at least one. Raises the FailedPreconditionError of the first pool when none is accepted.
    """
    first: FailedPreconditionError | None = None
    for pool_id in pool_ids:
        pool = Pool.get_by_id(pool_id)
        try:
            return pool, check(pool)
        except FailedPreconditionError as error:
            first = first or error
    assert first is not None
    raise first
