"""A new volume with the content of another one or of a snapshot, encrypted under its own key when that one is."""

from __future__ import annotations

from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.units import format_size

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.database import transaction
from ostler_control.keys import Keyring
from ostler_control.models import Account, DiskOffering, Host, Operation, Pool, Vm, Volume, Zone, new_id
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.scheduling import placement_query
from ostler_control.states import VolumeState
from ostler_control.volumes import host_jobs, matrix, wire
from ostler_control.volumes.copying import choose_copying_host, copy_file
from ostler_control.volumes.create import delete_file, record_failure
from ostler_control.volumes.new_volume import check_free_name, check_size, first_accepted, required_bytes
from ostler_control.volumes.rows import load
from ostler_control.volumes.sources import SourceInputs, SourceRow, kind_of, load_source, lock_source_row


@dataclass(frozen=True)
class NewCopy:
    """A requested volume. source: a Volume or a Snapshot.

    offering None: the source's, if that has one that still fits; size_bytes 0: the offering's, else the source's;
    pool None: the source's if it has room, else chosen, in `zone` if given.
    """

    name: str
    account: Account
    source: SourceRow
    offering: DiskOffering | None = None
    size_bytes: int = 0
    pool: Pool | None = None
    zone: Zone | None = None


@dataclass(frozen=True)
class CopyInputs(SourceInputs):
    """host_id, vm_id: the VM that runs with the source and its host, "" when none does."""

    vm_id: str
    host_id: str
    iter_time_ms: int


@dataclass(frozen=True)
class _Layout:
    offering: DiskOffering | None
    size_bytes: int
    format: str
    provisioning: str


def copy(wanted: NewCopy, user: str, keys: Keyring) -> Operation:
    """Records a new volume and the operation that fills it.

    Raises InvalidArgumentError; AlreadyExistsError VOLUME_EXISTS; AbortedError RESOURCE_BUSY; FailedPreconditionError:
    VOLUME_STATE, SNAPSHOT_STATE, ENCRYPTION_MISMATCH, NO_FEASIBLE_POOL, NO_CAPABLE_HOST, HOST_SILENT, VM_STATE,
    LACKS_POOL, LACKS_VOLUME_ENCRYPTION; ResourceExhaustedError QUOTA_EXCEEDED.
    """
    check_free_name(wanted.account, check_name("name", wanted.name))
    vm, source = lock_source_row(wanted.source)
    layout = _layout(wanted, source)
    check_quota(wanted.account.id, Resources(volumes=1, storage_bytes=layout.size_bytes))
    pool, host = _choose_pool(wanted, source, vm, required_bytes(layout.provisioning, layout.size_bytes))
    operation = matrix.Operation.COPY if isinstance(source, Volume) else matrix.Operation.FROM_SNAPSHOT
    matrix.check(operation, source, host is not None, pool.type)
    volume_id = new_id()
    volume = Volume.create(
        id=volume_id,
        name=wanted.name,
        account=wanted.account,
        pool=pool,
        disk_offering=layout.offering,
        passphrase=keys.create(volume_id) if source.passphrase_id else None,
        size_bytes=layout.size_bytes,
        format=layout.format,
        provisioning=layout.provisioning,
    )
    inputs = CopyInputs(
        source_kind=kind_of(source),
        source_id=source.id,
        vm_id=vm.id if vm is not None and host is not None else "",
        host_id=host.id if host is not None else "",
        iter_time_ms=settings.encryption.LUKS_ITER_TIME.get(),
    )
    return record_operation("volume.copy", volume, user, inputs, also=[vm, source] if vm is not None else [source])


def _layout(wanted: NewCopy, source: SourceRow) -> _Layout:
    offering = _chosen_offering(wanted, source) if wanted.offering else _inherited_offering(source)
    fixed_bytes = wanted.offering.size_bytes if wanted.offering else 0
    size_bytes = check_size("size_bytes", fixed_bytes or wanted.size_bytes or source.size_bytes)
    if size_bytes < source.size_bytes:
        raise bad_field(
            "size_bytes",
            f"must be at least {format_size(source.size_bytes)}, the size of {source.name}",
            "INVALID_SIZE",
        )
    if offering is not None:
        return _Layout(offering, size_bytes, offering.format, offering.provisioning)
    return _Layout(None, size_bytes, source.format, source.provisioning if isinstance(source, Volume) else "thin")


def _inherited_offering(source: SourceRow) -> DiskOffering | None:
    """The offering of the volume that is copied, or was snapshotted, unless it is retired or encrypts otherwise."""
    volume = source if isinstance(source, Volume) else Volume.get_or_none(Volume.id == source.volume_id)
    offering = volume.disk_offering if volume is not None else None
    if offering is None or offering.retire_time or offering.encrypt != bool(source.passphrase_id):
        return None
    return offering


def _chosen_offering(wanted: NewCopy, source: SourceRow) -> DiskOffering:
    offering = wanted.offering
    assert offering is not None
    encrypted = bool(source.passphrase_id)
    if offering.encrypt != encrypted:
        raise FailedPreconditionError(
            f"{source.name} is {'' if encrypted else 'not '}encrypted, and disk offering {offering.name} is for "
            f"{'unencrypted' if encrypted else 'encrypted'} volumes; choose another offering, or none",
            "ENCRYPTION_MISMATCH",
            {"offering": offering.name},
        )
    if offering.size_bytes and wanted.size_bytes not in (0, offering.size_bytes):
        raise bad_field("size_bytes", f"disk offering {offering.name} has a fixed size", "INVALID_SIZE")
    return offering


def _choose_pool(wanted: NewCopy, source: SourceRow, vm: Vm | None, needed: int) -> tuple[Pool, Host | None]:
    """The best of the feasible pools to which a host can copy now, and that host if only one can."""
    encrypted = bool(source.passphrase_id)
    choices = placement_query.pools_for(
        wanted.name,
        needed,
        encrypted,
        pool_id=wanted.pool.id if wanted.pool else "",
        zone_id=wanted.zone.id if wanted.zone else "",
    )
    source_pool_first = sorted(choices, key=lambda pool_id: pool_id != source.pool_id)
    return first_accepted(source_pool_first, lambda pool: choose_copying_host(source.pool, pool, encrypted, vm))


@workflow("volume.copy")
def _copy(run: Run) -> None:
    inputs = run.read(CopyInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: record_failure(run, undo))
        host_id: str = inputs.host_id or run.step("choose", lambda: _choose(run))
        undo.push("remove", lambda: delete_file(run, host_id, run.resource_id))
        run.step("copy", lambda: _fill(run, host_id, inputs))


def _choose(run: Run) -> str:
    return host_jobs.choose_for_copy(run, load_source(run), load(run.resource_id))


def _fill(run: Run, host_id: str, inputs: CopyInputs) -> None:
    volume = load(run.resource_id)
    info = copy_file(
        run,
        host_id,
        load_source(run),
        volume,
        inputs.iter_time_ms,
        size_bytes=volume.size_bytes,
        vm_id=inputs.vm_id,
    )
    found = wire.encrypt_format(volume, info)
    with transaction():
        Volume.update(state=VolumeState.READY, state_reason="", encrypt_format=found).where(
            Volume.id == volume.id
        ).execute()
