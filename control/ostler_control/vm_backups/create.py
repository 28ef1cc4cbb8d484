"""Creating a backup: one job copies all disks as of one moment, by the VM's host while the VM runs."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import job_pb2, volume_pb2
from ostler_common.errors import AlreadyExistsError, FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.catalog.row_limits import check_rows
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import check_host, choose_host
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.keys import Keyring
from ostler_control.models import (
    Backup,
    BackupConsistency,
    BackupDisk,
    BackupState,
    BackupStore,
    Host,
    Operation,
    Pool,
    Vm,
    Volume,
    new_id,
    now,
)
from ostler_control.objects import stores
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.operations.records import release
from ostler_control.vm_backups import chains, firmware_state, uploads
from ostler_control.vm_backups.definition import define
from ostler_control.vm_backups.rows import (
    delete_file,
    destroy,
    disks_of,
    load,
    load_disk,
    load_or_none,
    record_last_error,
)
from ostler_control.vm_backups.verify import digest
from ostler_control.vms import firmware_states
from ostler_control.vms.rows import check_not_elsewhere
from ostler_control.vms.rows import disks_of as disks_of_vm
from ostler_control.volumes import consistency, matrix, wire
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.increments import parent_of
from ostler_control.volumes.new_volume import first_accepted
from ostler_control.volumes.rows import load as load_volume
from ostler_control.volumes.rows import running_host

# So that the time, and a suffix if need be, still fit into a name of 63 characters.
_MAX_VM_NAME_PART, _MAX_NAME_BEFORE_SUFFIX = 46, 56
_COPIED_PERCENT = 80
_SPOOLED_PERCENT = 40


@dataclass(frozen=True)
class NewBackup:
    """A requested backup. name "": the VM's and the time; store None: the one with the most room that is reached.

    full: copy everything, not only what was written since the last backup.
    """

    vm: Vm
    name: str = ""
    store: Pool | None = None
    full: bool = False


@dataclass(frozen=True)
class BackupInputs:
    """disks: ids of the backup's, by slot; vm_id: the VM's; host_id: where it runs, "" when it is stopped.

    last_host_id: where it runs or ran last, "" for nowhere; firmware: whether its firmware keeps anything;
    bucket: whether the store is one.
    """

    disks: tuple[str, ...]
    vm_id: str
    host_id: str
    iter_time_ms: int
    last_host_id: str = ""
    firmware: bool = False
    bucket: bool = False


def create(wanted: NewBackup, user: str, keys: Keyring) -> Operation:
    """Records a new backup with its disks and their keys, and the operation that fills it.

    Raises InvalidArgumentError; AlreadyExistsError BACKUP_EXISTS; AbortedError RESOURCE_BUSY; FailedPreconditionError:
    NO_STORE, NOT_A_STORE, NO_DISKS, VOLUME_STATE, VM_STATE, RUNS_ELSEWHERE, HOST_SILENT, FUNCTION_NOT_SUPPORTED,
    NO_CAPABLE_HOST, NO_COMMON_HOST, LACKS_POOL, LACKS_VOLUME_ENCRYPTION; ResourceExhaustedError QUOTA_EXCEEDED.
    """
    vm = lock_row(wanted.vm)
    check_not_elsewhere(vm)
    volumes = [lock_row(volume) for volume in disks_of_vm(vm.id)]
    if not volumes:
        raise FailedPreconditionError(f"VM {vm.name} has no disk to back up", "NO_DISKS", {"vm": vm.id})
    for volume in volumes:
        check_ready(volume)
    name = _free_name(vm, wanted.name)
    check_rows(Backup, vm.account_id)
    check_quota(vm.account_id, Resources(snapshots=1))
    host = running_host(vm)
    if host is not None:
        rules.need(Function.ONLINE_BACKUP, host)
    matrix.check_all(matrix.Operation.BACKUP, volumes, host is not None)
    store = _choose_store(wanted.store, host, volumes)
    backup = Backup.create(
        name=name,
        account=vm.account_id,
        vm_id=vm.id,
        vm_name=vm.name,
        pool=store,
        online=host is not None,
        definition=define(vm),
    )
    disks = [_record_disk(backup, volume, keys) for volume in volumes]
    chains.record_parents(disks, why_full=_why_full(wanted, host))
    inputs = BackupInputs(
        disks=tuple(disk.id for disk in disks),
        vm_id=vm.id,
        host_id=host.id if host is not None else "",
        iter_time_ms=settings.encryption.LUKS_ITER_TIME.get(),
        last_host_id=(host.id if host is not None else vm.last_host_id) or "",
        firmware=firmware_states.is_kept(vm.id),
        bucket=stores.has_bucket(store.id),
    )
    return record_operation("backup.create", backup, user, inputs, also=[vm, *volumes])


def _why_full(wanted: NewBackup, host: Host | None) -> str:
    """Why all disks are copied whole, "" if they may be increments. host: where the VM runs."""
    if wanted.full:
        return chains.REQUESTED
    if host is not None and not rules.supports(Function.INCREMENTAL_BACKUP, host):
        return chains.NOT_STATED
    return ""


def _free_name(vm: Vm, wanted: str) -> str:
    """The requested name, or one of the VM's name and the time (UTC)."""
    existing = Backup.select().where(Backup.account == vm.account_id)
    if wanted:
        if existing.where(Backup.name == check_name("name", wanted)).exists():
            raise AlreadyExistsError(f"a backup named {wanted} already exists; choose another name", "BACKUP_EXISTS")
        return wanted
    name = f"{vm.name[:_MAX_VM_NAME_PART]}-{now():%Y%m%d-%H%M%S}"
    if existing.where(Backup.name == name).exists():
        return f"{name[:_MAX_NAME_BEFORE_SUFFIX]}-{secrets.token_hex(3)}"
    return name


def _choose_store(wanted: Pool | None, host: Host | None, volumes: Sequence[Volume]) -> Pool:
    """The requested store, or the one with the most room, that a host reaches together with the disks.

    Buckets come after all others: their room is not known, a backup takes room in a spool meanwhile, and requests cost.
    """
    candidates = Pool.select().join(BackupStore)
    candidates = candidates.order_by(Pool.type == stores.TYPE, Pool.available_bytes.desc(), Pool.name)
    if wanted is not None:
        candidates = candidates.where(Pool.id == wanted.id)
    ids = [store.id for store in candidates]
    if wanted is not None:
        check_store(wanted)
    if not ids:
        raise FailedPreconditionError(
            "there is no backup store; an admin adds one (ostler backup store add)", "NO_STORE"
        )

    def check(store: Pool) -> None:
        if host is not None:
            check_host(host, store, True)
        else:
            choose_host(store, True, lambda _: 0, *(volume.pool for volume in volumes))

    return first_accepted(ids, check)[0]


def check_store(pool: Pool) -> None:
    """Raises FailedPreconditionError NOT_A_STORE for a pool that holds volumes."""
    if not BackupStore.select().where(BackupStore.pool == pool.id).exists():
        raise FailedPreconditionError(
            f"{pool.name} is no backup store (see ostler backup store list)", "NOT_A_STORE", {"pool": pool.name}
        )


def _record_disk(backup: Backup, volume: Volume, keys: Keyring) -> BackupDisk:
    disk_id = new_id()
    row: BackupDisk = BackupDisk.create(
        id=disk_id,
        backup=backup,
        slot=volume.slot,
        root=volume.root,
        volume_id=volume.id,
        volume_name=volume.name,
        pool=backup.pool_id,
        passphrase=keys.create(disk_id),
        size_bytes=volume.size_bytes,
        encrypted=bool(volume.passphrase_id),
        volume_pool_id=volume.pool_id,
        volume_format=volume.format,
        provisioning=volume.provisioning,
        disk_offering_id=volume.disk_offering_id or "",
    )
    return row


@workflow("backup.create")
def _create(run: Run) -> None:
    inputs = run.read(BackupInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo, inputs))
        host_id: str = inputs.host_id or run.step("choose", lambda: _choose_host(run))
        if inputs.bucket:
            uploads.clear_spool(run, host_id, "clear")
            run.step("spool", lambda: uploads.record_spool(run.resource_id, host_id))
        for number, disk_id in enumerate(inputs.disks):
            undo.push(_removal(number), partial(delete_file, run, host_id, disk_id))
        if inputs.firmware:
            run.step("keep-firmware-state", lambda: firmware_state.keep(run, inputs.vm_id, inputs.last_host_id))
        run.step("copy", lambda: _copy(run, host_id, inputs))
        run.step("release-vm", lambda: _release_vm(run))
        for number, disk_id in enumerate(inputs.disks):
            run.step(f"digest-{number}", partial(_record_digest, run, host_id, inputs, number, disk_id))
            if inputs.bucket:
                undo.push(_removal(number, "object"), partial(uploads.remove_object, disk_id, run.keys))
                uploads.send(run, host_id, number, disk_id, _share(inputs, number))
        run.step("ready", lambda: _record_ready(run))
    if inputs.bucket:
        uploads.clear_spool(run, host_id, "drop")


def _removal(number: int, what: str = "file") -> str:
    return f"remove-{number}" if what == "file" else f"remove-{what}-{number}"


def _choose_host(run: Run) -> str:
    with session():
        pools = [load_volume(disk.volume_id).pool for disk in disks_of(run.resource_id)]
        host: Host = choose_host(load(run.resource_id).pool, True, run.agents.busy, *pools)
        return host.id


def _share(inputs: BackupInputs, number: int) -> tuple[int, int]:
    """What a disk's part of the operation is once all are copied, percent: most of it if it is then sent."""
    copied = _SPOOLED_PERCENT if inputs.bucket else _COPIED_PERCENT
    part = (100 - copied) // len(inputs.disks)
    return copied + part * number, copied + part * (number + 1)


def _copy(run: Run, host_id: str, inputs: BackupInputs) -> None:
    disks = disks_of(run.resource_id)
    since = {disk.id: parent.backup_id for disk in disks if (parent := parent_of(disk)) is not None}
    request = agent_pb2.CopyDisksRequest(
        operation=run.ref(),
        vm_id=inputs.vm_id,
        disks=[
            agent_pb2.DiskCopy(
                source=wire.keyed_ref(load_volume(disk.volume_id), run.keys),
                target=wire.keyed_ref(disk, run.keys, inputs.iter_time_ms),
                since=since.get(disk.id, ""),
            )
            for disk in disks
        ],
        record_id=run.resource_id,
    )
    address, share = address_of(host_id), (0, _SPOOLED_PERCENT if inputs.bucket else _COPIED_PERCENT)
    update = run.job(address, lambda agent: agent.volumes.CopyDisks, request, share)
    found = {info.volume_id: info for info in update.copied_disks.volumes}
    with transaction():
        for disk in disks:
            info = found[disk.id]
            BackupDisk.update(
                encrypt_format=wire.encrypt_format(disk, info), size_bytes=info.virtual_size_bytes or disk.size_bytes
            ).where(BackupDisk.id == disk.id).execute()
        _record_parts(disks, since, update.copied_disks.parts)
        _record_consistency(run.resource_id, found[disks[0].id])


def _record_parts(disks: Sequence[BackupDisk], since: Mapping[str, str], parts: Sequence[job_pb2.CopiedPart]) -> None:
    """Keeps what a disk builds on if its file is an increment. The agents of older releases copy everything."""
    for disk, part in zip(disks, parts or [job_pb2.CopiedPart(reason=chains.OLD_AGENT)] * len(disks), strict=True):
        if disk.id in since and not part.increment:
            chains.record_full(disk, part.reason)


def _record_consistency(backup_id: str, info: volume_pb2.VolumeInfo) -> None:
    """All disks are of one moment; the step may be a repetition."""
    BackupConsistency.delete().where(BackupConsistency.backup == backup_id).execute()
    if fields := consistency.recorded(info):
        BackupConsistency.create(backup=backup_id, **fields)


def _release_vm(run: Run) -> None:
    """The copies are complete: what follows only reads them."""
    with transaction():
        release(run.id, (Vm, Volume))


def _record_digest(run: Run, host_id: str, inputs: BackupInputs, number: int, disk_id: str) -> None:
    disk, share = load_disk(disk_id), (0, 0) if inputs.bucket else _share(inputs, number)
    found = digest(run, host_id, wire.keyed_ref(disk, run.keys), share)
    with transaction():
        BackupDisk.update(sha256=found.sha256, file_size_bytes=found.file_size_bytes).where(
            BackupDisk.id == disk_id
        ).execute()


def _record_ready(run: Run) -> None:
    with transaction():
        Backup.update(state=BackupState.READY, state_reason="").where(Backup.id == run.resource_id).execute()


def _record_failure(run: Run, undo: Undo, inputs: BackupInputs) -> None:
    """Nothing stays of a failed backup, unless one of its files does: then its rows stay, to be deleted."""
    with transaction():
        backup = load_or_none(run.resource_id)
        if backup is None:
            return
        reason = f"not created: {undo.error}"
        record_last_error(backup.id, reason)
        numbers = range(len(inputs.disks))
        if undo.failed(*(_removal(number, what) for number in numbers for what in ("file", "object"))):
            Backup.update(state=BackupState.FAILED, state_reason=reason).where(Backup.id == backup.id).execute()
        else:
            destroy(backup, run)
