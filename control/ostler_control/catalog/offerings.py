"""Offerings: the sizes and kinds of VM and disk that users choose from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from ostler_common.errors import AlreadyExistsError, bad_field
from ostler_common.io_limits import NO_LIMITS, IoLimits
from peewee import IntegrityError

from ostler_control import database, events, labels
from ostler_control.catalog import disk_io, driver_details
from ostler_control.catalog.names import check_name
from ostler_control.catalog.sizes import NO_SIZE, Size, set_maximum
from ostler_control.extraconfig.dpdk import check_dpdk
from ostler_control.models import DiskOffering, OfferingExtraConfig, ServiceOffering, now, tuples

MIB = 1 << 20
MAX_CPUS = 512
# Limits of one VM or volume: more is a typing error, and sums stay far below 2**63.
MAX_MEMORY_BYTES = 64 << 40
MAX_VOLUME_BYTES = 1 << 50


def create_service(
    name: str,
    cpus: int,
    memory_bytes: int,
    encrypt_root: bool,
    actor: str,
    extra_configs: Mapping[str, str] = MappingProxyType({}),
    details: Mapping[str, str] = MappingProxyType({}),
    maximum: Size = NO_SIZE,
) -> ServiceOffering:
    """Creates a service offering. extra_configs: for DPDK, by name; details: for drivers; maximum: what its VMs may get
    while they run, 0: no more than they have.

    Raises InvalidArgumentError INVALID_SIZE, AlreadyExistsError when the name is taken, and what `check_dpdk` and
    `driver_details.check_given` do.
    """
    check_name("name", name)
    if not 1 <= cpus <= MAX_CPUS:
        raise bad_field("cpus", f"must be 1 to {MAX_CPUS}", reason="INVALID_SIZE")
    _check_size("memory_bytes", memory_bytes, MAX_MEMORY_BYTES)
    most = _checked_maximum(maximum, Size(cpus, memory_bytes))
    check_dpdk(extra_configs, memory_bytes)
    driver_details.check_given(details)
    try:
        with database.transaction():
            offering: ServiceOffering = ServiceOffering.create(
                name=name, cpus=cpus, memory_bytes=memory_bytes, encrypt_root=encrypt_root
            )
            set_maximum(offering, most)
            for config, value in extra_configs.items():
                OfferingExtraConfig.create(service_offering=offering, name=config, value=value)
            driver_details.add_to_offering(offering, details)
            events.done("service_offering.create", actor, offering)
            return offering
    except IntegrityError:
        raise _taken("a service", name) from None


def create_disk(
    name: str,
    size_bytes: int,
    encrypt: bool,
    provisioning: str,
    format: str,
    actor: str,
    limits: IoLimits = NO_LIMITS,
    ignore_discard: bool = False,
) -> DiskOffering:
    """Creates a disk offering; size_bytes 0: the user says. Raises AlreadyExistsError when the name is taken.

    provisioning: thin | sparse | thick; format: qcow2 | raw.
    """
    check_name("name", name)
    if size_bytes:
        _check_size("size_bytes", size_bytes, MAX_VOLUME_BYTES)
    try:
        with database.transaction():
            offering: DiskOffering = DiskOffering.create(
                name=name, size_bytes=size_bytes, encrypt=encrypt, provisioning=provisioning, format=format
            )
            disk_io.add_to_offering(offering, limits, ignore_discard)
            events.done("disk_offering.create", actor, offering)
            return offering
    except IntegrityError:
        raise _taken("a disk", name) from None


def extra_configs_of(offering_ids: Collection[str]) -> dict[str, dict[str, str]]:
    """The extra configuration of these service offerings by id; offerings without any are left out."""
    columns = (OfferingExtraConfig.service_offering, OfferingExtraConfig.name, OfferingExtraConfig.value)
    query = OfferingExtraConfig.select(*columns).where(OfferingExtraConfig.service_offering.in_(list(offering_ids)))
    found: dict[str, dict[str, str]] = {}
    for offering_id, name, value in tuples(query.order_by(OfferingExtraConfig.name), tuple[str, str, str]):
        found.setdefault(offering_id, {})[name] = value
    return found


def retire(offering: ServiceOffering | DiskOffering, actor: str) -> None:
    """Hides the offering from new VMs and volumes; those that have it keep it."""
    model = type(offering)
    kind = "service_offering" if isinstance(offering, ServiceOffering) else "disk_offering"
    with database.transaction():
        count = model.update(retire_time=now()).where(model.id == offering.id, model.retire_time.is_null()).execute()
        if count:
            labels.clear(offering)
            events.done(f"{kind}.delete", actor, offering)


def _checked_maximum(maximum: Size, size: Size) -> Size:
    """The maximum with its zeros filled in."""
    most = Size(maximum.cpus or size.cpus, maximum.memory_bytes or size.memory_bytes)
    if not size.cpus <= most.cpus <= MAX_CPUS:
        raise bad_field("max_cpus", f"must be {size.cpus} (the CPUs of a VM) to {MAX_CPUS}", reason="INVALID_SIZE")
    _check_size("max_memory_bytes", most.memory_bytes, MAX_MEMORY_BYTES)
    if most.memory_bytes < size.memory_bytes:
        raise bad_field("max_memory_bytes", "must be at least the memory of a VM", reason="INVALID_SIZE")
    return most


def _check_size(field: str, size_bytes: int, most: int) -> None:
    if not MIB <= size_bytes <= most or size_bytes % MIB:
        raise bad_field(field, f"must be a multiple of 1 MiB ({MIB}), at most {most >> 30} GiB", reason="INVALID_SIZE")


def _taken(kind: str, name: str) -> AlreadyExistsError:
    return AlreadyExistsError(f'there is {kind} offering "{name}" already', "NAME_TAKEN", {"name": name})
