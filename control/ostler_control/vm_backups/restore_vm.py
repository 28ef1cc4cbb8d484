"""Restoring a backup to a new VM, which is stopped: with disks, keys and an identity of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ostler_common.errors import FailedPreconditionError

from ostler_control import labels, settings
from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.catalog.sizes import renew_maximum
from ostler_control.hosts.choose import choose_host
from ostler_control.keys import Keyring
from ostler_control.models import (
    Account,
    Backup,
    BackupDisk,
    Network,
    Nic,
    Operation,
    Pool,
    ServiceOffering,
    Template,
    Vm,
    Volume,
    new_id,
)
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.vm_backups import firmware_state
from ostler_control.vm_backups.definition import Definition, read
from ostler_control.vm_backups.restoring import choose_pool, fill, offering_of
from ostler_control.vm_backups.rows import disks_of, load_disk, lock_ready
from ostler_control.vms import copied, details, machines, tpm
from ostler_control.vms.wanted import NewNic, check_nics, vm_exists
from ostler_control.volumes import host_jobs
from ostler_control.volumes.create import delete_file
from ostler_control.volumes.rows import load


@dataclass(frozen=True)
class NewVmRestore:
    """A requested VM. offering None: the backed-up VM's; pool None: each disk's own, or any that fits; keep_macs: the
    network interfaces have the MAC addresses of the backup, which must be free; without_nics: there are none."""

    backup: Backup
    name: str
    offering: ServiceOffering | None = None
    pool: Pool | None = None
    keep_macs: bool = False
    without_nics: bool = False


@dataclass(frozen=True)
class VmRestoreInputs:
    """disks: ids of the backup's; volumes: those that get their content, in the same order.

    firmware_of: the backup, if it has what the firmware kept.
    """

    disks: tuple[str, ...]
    volumes: tuple[str, ...]
    iter_time_ms: int
    firmware_of: str = ""


def restore_vm(wanted: NewVmRestore, user: str, keys: Keyring) -> Operation:
    """Records a new VM of the backup's account with its disks, and the operation that fills them.

    Each disk is encrypted if it was when it was backed up, under a new key. Raises InvalidArgumentError INVALID_NAME;
    AlreadyExistsError VM_EXISTS, MAC_TAKEN; AbortedError RESOURCE_BUSY; FailedPreconditionError BACKUP_STATE,
    OFFERING_GONE, ENCRYPTION_MISMATCH, NETWORK_GONE, NETWORK_NOT_ALLOWED, NO_FEASIBLE_POOL, NO_CAPABLE_HOST,
    NO_COMMON_HOST; ResourceExhaustedError QUOTA_EXCEEDED.
    """
    return record_restore(wanted, user, keys, also=[lock_ready(wanted.backup)])


def record_restore(
    wanted: NewVmRestore, user: str, keys: Keyring, *, also: Sequence[Backup] = (), operation_id: str = ""
) -> Operation:
    """The same for a backup that cannot go meanwhile: another operation holds it, or this one does, in `also`."""
    backup = wanted.backup
    account, definition, disks = Account.get_by_id(backup.account_id), read(backup.definition), disks_of(backup.id)
    check_name("name", wanted.name)
    if Vm.select().where((Vm.account == account) & (Vm.name == wanted.name)).exists():
        raise vm_exists(account, wanted.name)
    offering = _offering(wanted, definition, disks)
    size = offering if wanted.offering is not None else definition
    check_quota(
        account.id,
        Resources(
            vms=1,
            cpus=size.cpus,
            memory_bytes=size.memory_bytes,
            volumes=len(disks),
            storage_bytes=sum(disk.size_bytes for disk in disks),
        ),
    )
    nics = [] if wanted.without_nics else check_nics(_nics(definition, keep_macs=wanted.keep_macs), account)
    pools = [choose_pool(disk, wanted.pool) for disk in disks]
    choose_host(pools[0], any(disk.encrypted for disk in disks), lambda _: 0, *pools[1:])  # where it can start
    vm = Vm.create(
        name=wanted.name,
        account=account,
        service_offering=offering,
        template=Template.get_or_none(Template.id == definition.template_id),
        template_name=definition.template_name,
        cpus=size.cpus,
        memory_bytes=size.memory_bytes,
        firmware=definition.firmware,
        hypervisor_type=definition.hypervisor_type,
    )
    for position, nic in enumerate(nics):
        Nic.create(vm=vm, position=position, mac=nic.mac, network=nic.network, model=nic.model)
    renew_maximum(vm)
    details.add(vm, definition.details)
    machines.keep(vm.id, definition.machine)
    if definition.tpm:
        tpm.add(vm, keys)
    labels.add(vm, definition.labels)
    volumes = [_record_volume(vm, disk, pool, keys) for disk, pool in zip(disks, pools, strict=True)]
    inputs = VmRestoreInputs(
        disks=tuple(disk.id for disk in disks),
        volumes=tuple(volume.id for volume in volumes),
        iter_time_ms=settings.encryption.LUKS_ITER_TIME.get(),
        firmware_of=backup.id if firmware_state.is_in(backup.id) else "",
    )
    return record_operation("vm.restore", vm, user, inputs, also=[*also, *volumes], operation_id=operation_id)


def _offering(wanted: NewVmRestore, definition: Definition, disks: Sequence[BackupDisk]) -> ServiceOffering:
    if wanted.offering is None:
        kept = ServiceOffering.get_or_none(ServiceOffering.id == definition.service_offering_id)
        if kept is None:
            raise FailedPreconditionError(
                f"service offering {definition.service_offering_name} of the backup is gone; choose one (--offering)",
                "OFFERING_GONE",
                {"offering": definition.service_offering_name},
            )
        return kept
    if any(disk.root and disk.encrypted != wanted.offering.encrypt_root for disk in disks):
        raise FailedPreconditionError(
            f"service offering {wanted.offering.name} has {'' if wanted.offering.encrypt_root else 'un'}encrypted root "
            "disks, unlike the VM that was backed up; choose another offering",
            "ENCRYPTION_MISMATCH",
            {"offering": wanted.offering.name},
        )
    return wanted.offering


def _nics(definition: Definition, *, keep_macs: bool) -> list[NewNic]:
    found: list[NewNic] = []
    for nic in definition.nics:
        network = Network.get_or_none(Network.id == nic.network_id)
        if network is None:
            raise FailedPreconditionError(
                f"network {nic.network_name} of the backup is gone; restore without network interfaces "
                "(--without-nics), and add others (ostler nic add)",
                "NETWORK_GONE",
                {"network": nic.network_name},
            )
        found.append(NewNic(network, nic.mac if keep_macs else "", nic.model))
    return found


def _record_volume(vm: Vm, disk: BackupDisk, pool: Pool, keys: Keyring) -> Volume:
    volume_id = new_id()
    volume: Volume = Volume.create(
        id=volume_id,
        name=copied.free_volume_name(vm, root=disk.root, slot=disk.slot),
        account=vm.account_id,
        pool=pool,
        disk_offering=offering_of(disk),
        passphrase=keys.create(volume_id) if disk.encrypted else None,
        size_bytes=disk.size_bytes,
        format=disk.volume_format,
        provisioning=disk.provisioning,
        root=disk.root,
        vm_id=vm.id,
        slot=disk.slot,
    )
    return volume


@workflow("vm.restore")
def _restore(run: Run) -> None:
    inputs = run.read(VmRestoreInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: copied.record_failure(run, undo, inputs.volumes, "not restored"))
        for number, (disk_id, volume_id) in enumerate(zip(inputs.disks, inputs.volumes, strict=True)):
            host_id: str = run.step(f"choose-{number}", partial(_choose, run, disk_id, volume_id))
            undo.push(copied.removal(number), partial(delete_file, run, host_id, volume_id))
            run.step(f"copy-{number}", partial(fill, run, host_id, disk_id, volume_id, inputs.iter_time_ms))
        if inputs.firmware_of:
            run.step("firmware-state", lambda: firmware_state.restore_to_new(run, inputs.firmware_of))
        run.step("record", lambda: copied.record_stopped(run.resource_id))


def _choose(run: Run, disk_id: str, volume_id: str) -> str:
    return host_jobs.choose_for_copy(run, load_disk(disk_id), load(volume_id))
