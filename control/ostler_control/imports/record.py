"""Records an import: the new VM placed, its volumes with their passphrases, its hold on staging space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ostler_common.errors import AbortedError, AlreadyExistsError, FailedPreconditionError
from peewee import IntegrityError

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.imports import staging
from ostler_control.imports.disks import DiskPlan
from ostler_control.imports.facts import Preflight, name_of, preflight, vm_exists
from ostler_control.imports.mapping import TargetVm, target_vm
from ostler_control.imports.preflight import Report, Severity
from ostler_control.imports.wanted import SourceFile, Wanted
from ostler_control.keys import Keyring
from ostler_control.models import (
    Host,
    ImportDiskPassphrase,
    Nic,
    Operation,
    Vm,
    VmImport,
    VmOrigin,
    Volume,
    WarmImport,
    new_id,
)
from ostler_control.operations import record_operation
from ostler_control.placement import Placement
from ostler_control.scheduling import placement_query
from ostler_control.vms import tpm
from ostler_control.vmware.inventory import SourceVm

_MAX_FINDINGS_TOLD = 5
_MAX_URL_TOLD = 500


@dataclass(frozen=True)
class ImportedDisk:
    """A disk under way. key: VMware's device key."""

    key: int
    volume_id: str


@dataclass(frozen=True)
class ImportedFiles:
    """The files of an import that has no source. vm: as described by them; by_key: the file of each disk."""

    vm: SourceVm
    by_key: dict[int, SourceFile]
    url: str
    ca_pem: str
    archive_bytes: int
    convert: bool


@dataclass(frozen=True)
class WarmInputs:
    """How a warm import goes. auto: cut over as soon as it is quiet, see `warm_rule`; wait_s: how long the cut-over may
    be waited for; interval_s: between two rounds meanwhile; cut_over_time: when to cut over (UTC, ISO 8601 without a
    time zone), "" for when somebody asks for it."""

    auto: bool
    quiet_bytes: int
    max_rounds: int
    wait_s: int
    interval_s: int
    cut_over_time: str = ""


@dataclass(frozen=True)
class KvmInputs:
    """A VM of another KVM host, as it was when the import was accepted."""

    vm: SourceVm


@dataclass(frozen=True)
class ImportInputs:
    """What the operation works with. source_id: "" with files; host_id: where the VM was placed; conversion_host_id:
    see the name; by_host: the conversion host downloads the disks itself; streams: the setting; timeout_s: of the
    conversion, from a KVM host of the copy of a disk; warm: None for a cold import; kvm: None for other sources."""

    source_id: str
    source_ref: str
    host_id: str
    conversion_host_id: str
    pool_id: str
    disks: tuple[ImportedDisk, ...]
    shutdown: bool
    stopped: bool
    by_host: bool
    streams: int
    timeout_s: int
    iter_time_ms: int
    test_boot: bool = False
    files: ImportedFiles | None = None
    warm: WarmInputs | None = None
    kvm: KvmInputs | None = None


def record_import(wanted: Wanted, vm: SourceVm, is_vcenter: bool, user: str, keys: Keyring) -> Operation:
    """Records a new VM and the operation that imports it: within the caller's transaction.

    vm: as just read from the source. Raises FailedPreconditionError IMPORT_REFUSED with what `preflight` found,
    AlreadyExistsError VM_EXISTS, AbortedError IMPORT_UNDER_WAY, ResourceExhaustedError QUOTA_EXCEEDED.
    """
    name = check_name("spec.name", name_of(wanted, vm))
    if vm_exists(wanted, name):
        raise AlreadyExistsError(
            f"account {wanted.account.name} has a VM named {name} already; choose another name", "VM_EXISTS"
        )
    found = preflight(wanted, vm, is_vcenter)
    if not found.report.is_go or found.placement is None:
        raise _refused(vm, found.report)
    target = target_vm(
        vm,
        name,
        {name: network.id for name, network in wanted.networks.items()},
        secure_boot=found.demand.secure_boot,
    )
    check_quota(wanted.account.id, _resources(target, found.disks))
    row = Vm.create(
        name=name,
        account=wanted.account,
        service_offering=wanted.offering,
        cpus=target.cpus,
        memory_bytes=target.memory_bytes,
        firmware=target.firmware,
    )
    for position, nic in enumerate(target.nics):
        Nic.create(vm=row, position=position, mac=nic.mac, network=nic.network, model=nic.model)
    if wanted.tpm:
        tpm.add(row, keys)
    placement = placement_query.find_and_claim(row, found.demand)
    host = Host.get_by_id(placement.host_id)
    Vm.update(hypervisor_type=host.hypervisor_type).where(Vm.id == row.id).execute()
    VmOrigin.create(
        vm=row,
        source_name=source_name(wanted),
        source_vm=vm.name,
        source_ref=vm.ref,
        guest_id=vm.guest_id,
        guest_os=target.guest_os,
    )
    volumes = _volumes(row, found.disks, placement, keys)
    operation_id = new_id()
    _claim_staging(operation_id, wanted, vm, row.id, found)
    _keep_passphrases(operation_id, wanted, keys)
    inputs = ImportInputs(
        source_id=wanted.source.id if wanted.source else "",
        source_ref=vm.ref,
        host_id=placement.host_id,
        conversion_host_id=found.report.host_id,
        pool_id=_staging_pool_id(wanted, found),
        disks=tuple(ImportedDisk(disk.key, volume.id) for disk, volume in zip(vm.disks, volumes, strict=True)),
        shutdown=wanted.shutdown,
        stopped=wanted.stopped or wanted.test_boot,
        test_boot=wanted.test_boot,
        by_host=is_by_host(wanted, found.report),
        streams=(
            settings.imports.HOST_DOWNLOAD_THREADS.get()
            if is_by_host(wanted, found.report)
            else settings.imports.CONTROL_DOWNLOAD_THREADS.get()
        ),
        timeout_s=_timeout_s(wanted),
        iter_time_ms=settings.encryption.LUKS_ITER_TIME.get(),
        files=_files(wanted, vm),
        warm=_warm(wanted),
        kvm=KvmInputs(vm) if wanted.is_kvm else None,
    )
    return record_operation("vm.import", row, user, inputs, also=volumes, operation_id=operation_id)


def source_name(wanted: Wanted) -> str:
    """What the VM's origin is called."""
    if wanted.source is not None:
        return wanted.source.name
    return wanted.files.url[:_MAX_URL_TOLD] if wanted.files and wanted.files.url else "files"


def _files(wanted: Wanted, vm: SourceVm) -> ImportedFiles | None:
    files = wanted.files
    if files is None:
        return None
    return ImportedFiles(vm, dict(files.files), files.url, files.ca_pem, files.archive_bytes, files.convert)


def _warm(wanted: Wanted) -> WarmInputs | None:
    if not wanted.warm:
        return None
    return WarmInputs(
        auto=wanted.auto_cut_over,
        quiet_bytes=settings.imports.WARM_QUIET_SIZE.get() << 20,
        max_rounds=settings.imports.WARM_MAX_ROUNDS.get(),
        wait_s=settings.imports.WARM_WAIT.get() * 3600,
        interval_s=settings.imports.WARM_INTERVAL.get() * 60,
        cut_over_time=wanted.cut_over_time.isoformat() if wanted.cut_over_time else "",
    )


def _timeout_s(wanted: Wanted) -> int:
    if wanted.is_kvm:
        return settings.imports.REMOTE_COPY_TIMEOUT.get() * 60
    return settings.imports.VMWARE_CONVERT_TIMEOUT.get() * 3600


def _keep_passphrases(operation_id: str, wanted: Wanted, keys: Keyring) -> None:
    for disk_key, choice in wanted.disks.items():
        if choice.passphrase is not None:
            row_id = new_id()
            ImportDiskPassphrase.create(
                id=row_id, vm_import=operation_id, disk_key=disk_key, passphrase=keys.store(choice.passphrase, row_id)
            )


def _resources(target: TargetVm, disks: Sequence[DiskPlan]) -> Resources:
    """What the account will own more of."""
    return Resources(
        vms=1,
        cpus=target.cpus,
        memory_bytes=target.memory_bytes,
        volumes=len(disks),
        storage_bytes=sum(plan.size_bytes for plan in disks),
    )


def is_by_host(wanted: Wanted, report: Report) -> bool:
    """Whether the conversion host downloads the disks: where it has ovftool, unless told otherwise."""
    return report.has_ovftool and not wanted.force_control_download and wanted.stages


def _volumes(vm: Vm, disks: Sequence[DiskPlan], placement: Placement, keys: Keyring) -> list[Volume]:
    volumes = []
    for position, (plan, pool_id) in enumerate(zip(disks, placement.pool_ids, strict=True)):
        volume_id = new_id()
        volumes.append(
            Volume.create(
                id=volume_id,
                name=_volume_name(vm, f"disk{position}" if position else "root"),
                account=vm.account_id,
                pool=pool_id,
                disk_offering=plan.offering,
                passphrase=keys.create(volume_id) if plan.encrypted else None,
                size_bytes=plan.size_bytes,
                format=plan.format,
                provisioning=plan.provisioning,
                root=position == 0,
                vm_id=vm.id,
                slot=position,
            )
        )
    return volumes


def _volume_name(vm: Vm, suffix: str) -> str:
    """The VM's name and the suffix; made unique when a volume is named so already."""
    name = f"{vm.name[:50]}-{suffix}"
    taken = Volume.select().where((Volume.account == vm.account_id) & (Volume.name == name)).exists()
    return f"{name}-{new_id()[:6]}" if taken else name


def _claim_staging(operation_id: str, wanted: Wanted, vm: SourceVm, vm_id: str, found: Preflight) -> None:
    try:
        VmImport.create(
            id=operation_id,
            source=wanted.source,
            source_ref=vm.ref or operation_id,
            vm_id=vm_id,
            pool=_staging_pool_id(wanted, found),
            host_id=found.report.host_id,
            claimed_bytes=staging.needed_bytes(vm) if wanted.stages else 0,
        )
        if wanted.warm:
            WarmImport.create(vm_import=operation_id)
    except IntegrityError:
        raise AbortedError(
            f"VM {vm.name} is being imported already (ostler operation list)", "IMPORT_UNDER_WAY", {"vm": vm.name}
        ) from None


def _staging_pool_id(wanted: Wanted, found: Preflight) -> str:
    """Where nothing is staged the volumes' pool stands for the one that is used."""
    if not wanted.stages and found.placement is not None:
        return found.placement.pool_ids[0]
    return found.report.pool_id


def _refused(vm: SourceVm, report: Report) -> FailedPreconditionError:
    errors = [finding for finding in report.findings if finding.severity is Severity.ERROR]
    told = "; ".join(
        f"{finding.message}{f' ({finding.remedy})' if finding.remedy else ''}"
        for finding in errors[:_MAX_FINDINGS_TOLD]
    )
    more = f"; and {len(errors) - _MAX_FINDINGS_TOLD} more" if len(errors) > _MAX_FINDINGS_TOLD else ""
    return FailedPreconditionError(
        f"VM {vm.name} cannot be imported: {told}{more}",
        "IMPORT_REFUSED",
        {"vm": vm.name, "findings": ",".join(finding.code for finding in errors)},
    )
