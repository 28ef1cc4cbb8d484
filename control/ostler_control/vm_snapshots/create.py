"""Creating a snapshot of a VM: one job copies all disks as of one moment, by the VM's host while the VM runs."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, ResourceExhaustedError
from ostler_common.hypervisors import Function

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.catalog.row_limits import check_rows
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import check_host, choose_host
from ostler_control.hypervisors import rules
from ostler_control.keys import Keyring
from ostler_control.models import Host, Operation, Snapshot, Vm, VmSnapshot, VmSnapshotDisk, Volume, now
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.scheduling import placement_query
from ostler_control.snapshots.create import record_info
from ostler_control.snapshots.rows import load as load_snapshot
from ostler_control.snapshots.rows import load_or_none as load_snapshot_or_none
from ostler_control.states import SnapshotState
from ostler_control.vm_snapshots import memory
from ostler_control.vm_snapshots.rows import destroy, load_or_none, record_last_error, set_state
from ostler_control.vms import firmware_states
from ostler_control.vms.rows import check_not_elsewhere
from ostler_control.vms.rows import disks_of as disks_of_vm
from ostler_control.volumes import host_jobs, matrix
from ostler_control.volumes.copying import copy_disks
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import load as load_volume
from ostler_control.volumes.rows import running_host

# So that the time, the disk and a suffix, if need be, still fit into a name of 63 characters.
_MAX_VM_NAME_PART, _MAX_NAME_BEFORE_SUFFIX, _MAX_NAME_BEFORE_DISK = 46, 56, 46


_REMOVE_MEMORY = "remove-memory"


@dataclass(frozen=True)
class NewVmSnapshot:
    """A requested snapshot of a VM. name "": the VM's and the time; memory: with that of the VM, which must run."""

    vm: Vm
    name: str = ""
    memory: bool = False


@dataclass(frozen=True)
class VmSnapshotInputs:
    """volumes, snapshots: ids of the VM's volumes and of their snapshots, disk by disk; vm_id, host_id: the VM that
    runs and its host, "" when it is stopped; memory_id: of the memory, "" for none."""

    volumes: tuple[str, ...]
    snapshots: tuple[str, ...]
    vm_id: str
    host_id: str
    iter_time_ms: int
    memory_id: str = ""


def create(wanted: NewVmSnapshot, user: str, keys: Keyring) -> Operation:
    """Records a new snapshot of a VM with those of its disks and their keys, and the operation that fills them.

    Raises InvalidArgumentError INVALID_NAME; AlreadyExistsError VM_SNAPSHOT_EXISTS; AbortedError RESOURCE_BUSY;
    FailedPreconditionError: NO_DISKS, VOLUME_STATE, VM_STATE, RUNS_ELSEWHERE, HOST_SILENT, FUNCTION_NOT_SUPPORTED,
    NO_FEASIBLE_POOL, NO_CAPABLE_HOST, NO_COMMON_HOST, LACKS_POOL, LACKS_VOLUME_ENCRYPTION, with memory VM_NOT_RUNNING;
    ResourceExhaustedError TOO_MANY_VM_SNAPSHOTS, QUOTA_EXCEEDED.
    """
    vm = lock_row(wanted.vm)
    check_not_elsewhere(vm)
    volumes = [lock_row(volume) for volume in disks_of_vm(vm.id)]
    if not volumes:
        raise FailedPreconditionError(f"VM {vm.name} has no disk to take a snapshot of", "NO_DISKS", {"vm": vm.id})
    for volume in volumes:
        check_ready(volume)
    name = _free_name(vm, wanted.name)
    _check_limit(vm)
    check_rows(VmSnapshot, vm.account_id)
    check_quota(vm.account_id, Resources(snapshots=len(volumes)))
    host = _copying_host(vm, volumes)
    if wanted.memory:
        memory.check_saving(vm, volumes, host)
    row = VmSnapshot.create(name=name, account=vm.account_id, vm_id=vm.id, vm_name=vm.name, online=host is not None)
    snapshots = [_record_disk(row, volume, keys) for volume in volumes]
    memory_id = memory.record(row, vm, volumes, keys).id if wanted.memory else ""
    inputs = VmSnapshotInputs(
        volumes=tuple(volume.id for volume in volumes),
        snapshots=tuple(snapshot.id for snapshot in snapshots),
        vm_id=vm.id if host is not None else "",
        host_id=host.id if host is not None else "",
        iter_time_ms=settings.encryption.LUKS_ITER_TIME.get(),
        memory_id=memory_id,
    )
    return record_operation("vm-snapshot.create", row, user, inputs, also=[vm, *volumes, *snapshots])


def _free_name(vm: Vm, wanted: str) -> str:
    """The requested name, or one of the VM's name and the time (UTC)."""
    existing = VmSnapshot.select().where(VmSnapshot.account == vm.account_id)
    if wanted:
        if existing.where(VmSnapshot.name == check_name("name", wanted)).exists():
            raise AlreadyExistsError(
                f"a VM snapshot named {wanted} already exists; choose another name", "VM_SNAPSHOT_EXISTS"
            )
        return wanted
    name = f"{vm.name[:_MAX_VM_NAME_PART]}-{now():%Y%m%d-%H%M%S}"
    if existing.where(VmSnapshot.name == name).exists():
        return f"{name[:_MAX_NAME_BEFORE_SUFFIX]}-{secrets.token_hex(3)}"
    return name


def most_of(vm: Vm) -> int:
    """How many snapshots a VM may have."""
    return settings.vms.MAX_SNAPSHOTS.get(settings.At(account_id=vm.account_id))


def _check_limit(vm: Vm) -> None:
    limit = most_of(vm)
    count = VmSnapshot.select().where(VmSnapshot.vm_id == vm.id).count()
    if count >= limit:
        raise ResourceExhaustedError(
            f"VM {vm.name} has {count} snapshots, and {limit} is the most that it may have; delete one (ostler vm "
            f"snapshot list --vm {vm.name}), or ask an admin to raise {settings.vms.MAX_SNAPSHOTS.name}",
            "TOO_MANY_VM_SNAPSHOTS",
            {"vm": vm.id, "limit": str(limit)},
        )


def _copying_host(vm: Vm, volumes: Sequence[Volume]) -> Host | None:
    """The host that must copy because the VM runs there; checks that some host can copy every disk in its pool."""
    host = running_host(vm)
    if host is not None:
        rules.need(Function.ONLINE_BACKUP, host)
    for volume in volumes:
        encrypted = bool(volume.passphrase_id)
        placement_query.pools_for(f"the snapshot of {volume.name}", 0, encrypted, pool_id=volume.pool_id)
        matrix.check(matrix.Operation.SNAPSHOT, volume, host is not None)
        if host is not None:
            check_host(host, volume.pool, encrypted)
    if host is None:
        _choose(volumes, lambda _: 0)
    return host


def _record_disk(row: VmSnapshot, volume: Volume, keys: Keyring) -> Snapshot:
    snapshot: Snapshot = Snapshot.create(
        name=_free_disk_name(row, volume),
        account=row.account_id,
        volume_id=volume.id,
        pool=volume.pool_id,
        passphrase=keys.create(volume.id) if volume.passphrase_id else None,
        size_bytes=volume.size_bytes,
        online=row.online,
    )
    VmSnapshotDisk.create(
        vm_snapshot=row,
        snapshot=snapshot,
        slot=volume.slot,
        root=volume.root,
        volume_id=volume.id,
        volume_name=volume.name,
    )
    return snapshot


def _free_disk_name(row: VmSnapshot, volume: Volume) -> str:
    """The name of the VM's snapshot and the disk, with a random suffix when the account has a snapshot of that name."""
    disk = "root" if volume.root else f"data-{volume.slot}"
    name = f"{row.name[:_MAX_NAME_BEFORE_DISK]}-{disk}"
    taken = Snapshot.select().where((Snapshot.account == row.account_id) & (Snapshot.name == name)).exists()
    return f"{name}-{secrets.token_hex(3)}" if taken else name


@workflow("vm-snapshot.create")
def _create(run: Run) -> None:
    inputs = run.read(VmSnapshotInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo, inputs))
        host_id: str = inputs.host_id or run.step("choose", lambda: _choose_now(run, inputs))
        for number, snapshot_id in enumerate(inputs.snapshots):
            undo.push(_removal(number), partial(delete_file, run, host_id, snapshot_id))
        if inputs.memory_id:
            undo.push(_REMOVE_MEMORY, lambda: delete_memory(run, host_id, inputs.memory_id))
        row = load_or_none(run.resource_id)
        if row is not None and firmware_states.is_kept(row.vm_id):
            vm_id = row.vm_id
            run.step("keep-firmware-state", lambda: _keep_firmware_state(run, vm_id, inputs))
        run.step("copy", lambda: _copy(run, host_id, inputs))


def _keep_firmware_state(run: Run, vm_id: str, inputs: VmSnapshotInputs) -> None:
    """Just before the disks are copied."""
    with session():
        last_host_id = Vm.get_by_id(vm_id).last_host_id
    firmware_states.keep_for_snapshot(run, vm_id, run.resource_id, inputs.host_id or last_host_id or "")


def _removal(number: int) -> str:
    return f"remove-{number}"


def _choose_now(run: Run, inputs: VmSnapshotInputs) -> str:
    with session():
        return _choose([load_volume(volume_id) for volume_id in inputs.volumes], run.agents.busy).id


def _choose(volumes: Sequence[Volume], busy: host_jobs.Busy) -> Host:
    """One host copies all disks of a stopped VM, so it must reach all their pools."""
    first, *others = (volume.pool for volume in volumes)
    host: Host = choose_host(first, any(volume.passphrase_id for volume in volumes), busy, *others)
    return host


def _copy(run: Run, host_id: str, inputs: VmSnapshotInputs) -> None:
    snapshots = [load_snapshot(snapshot_id) for snapshot_id in inputs.snapshots]
    pairs = list(zip(map(load_volume, inputs.volumes), snapshots, strict=True))
    kept = memory.load_or_none(inputs.memory_id) if inputs.memory_id else None
    found = copy_disks(run, host_id, pairs, inputs.iter_time_ms, vm_id=inputs.vm_id, memory=kept)
    with transaction():
        if kept is not None:
            memory.record_info(kept, found[kept.id])
        for snapshot in snapshots:
            record_info(snapshot, found[snapshot.id])
        set_state(run.resource_id, SnapshotState.READY)


def delete_file(run: Run, host_id: str, snapshot_id: str) -> None:
    """Inside a step: makes the host delete a disk's file; one that is not there is a success."""
    snapshot = load_snapshot_or_none(snapshot_id)
    if snapshot is not None:
        host_jobs.delete_file(run, host_id, snapshot)


def delete_memory(run: Run, host_id: str, memory_id: str) -> None:
    """Inside a step: makes the host delete the file of the memory; one that is not there is a success."""
    kept = memory.load_or_none(memory_id)
    if kept is not None:
        host_jobs.delete_file(run, host_id, kept)


def _record_failure(run: Run, undo: Undo, inputs: VmSnapshotInputs) -> None:
    """Nothing stays of a failed snapshot, unless one of its files does: then its rows stay, to be deleted."""
    with transaction():
        row = load_or_none(run.resource_id)
        if row is None:
            return
        reason = f"not created: {undo.error}"
        record_last_error(row.id, reason)
        if undo.failed(_REMOVE_MEMORY, *(_removal(number) for number in range(len(inputs.snapshots)))):
            set_state(row.id, SnapshotState.FAILED, reason)
        else:
            destroy(row, run)
