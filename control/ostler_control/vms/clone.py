"""Cloning a VM: a new, stopped one with copies of its disks, and with MAC addresses and an identity of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ostler.types.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_control import labels, networks, settings
from ostler_control.catalog import disk_io
from ostler_control.catalog.names import check_name
from ostler_control.catalog.quotas import Resources, check_quota
from ostler_control.database import transaction
from ostler_control.extraconfig.names import is_reserved
from ostler_control.hypervisors import rules
from ostler_control.keys import Keyring
from ostler_control.models import Host, Nic, Operation, Vm, VmExtraConfig, Volume, new_id
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.scheduling import placement_query
from ostler_control.states import VolumeState
from ostler_control.userdata import vm_user_data
from ostler_control.vms import copied, details, firmware_states, machines, tpm
from ostler_control.vms.rows import check_not_elsewhere, disks_of, nics_of
from ostler_control.vms.wanted import new_mac, vm_exists
from ostler_control.volumes import host_jobs, matrix, wire
from ostler_control.volumes.copying import choose_copying_host, copy_disks, copy_file
from ostler_control.volumes.create import delete_file
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.new_volume import required_bytes
from ostler_control.volumes.rows import load as load_volume


@dataclass(frozen=True)
class CloneInputs:
    """sources, targets: ids of the volumes, disk by disk; vm_id, host_id: the VM that is cloned and its host when it
    runs, else ""; firmware_of, firmware_on: the VM whose firmware state is copied and the host that has it, else ""."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    vm_id: str
    host_id: str
    iter_time_ms: int
    firmware_of: str = ""
    firmware_on: str = ""


def clone(vm: Vm, name: str, user: str, keys: Keyring, *, copy_firmware_state: bool = False) -> Operation:
    """Records a new VM of the same account with its disks, and the operation that fills them.

    copy_firmware_state: its UEFI variables and its TPM are copies, not new ones.

    Raises InvalidArgumentError INVALID_NAME; AlreadyExistsError VM_EXISTS; AbortedError RESOURCE_BUSY;
    FailedPreconditionError VM_STATE, RUNS_ELSEWHERE, CLONE_NEEDS_STOP, VOLUME_STATE, NO_FEASIBLE_POOL,
    NO_CAPABLE_HOST, HOST_SILENT, LACKS_POOL, LACKS_VOLUME_ENCRYPTION, FUNCTION_NOT_SUPPORTED, NETWORK_NOT_ALLOWED;
    ResourceExhaustedError QUOTA_EXCEEDED; and what `vm_user_data.assign` raises: then nothing has changed.
    """
    check_name("name", name)
    vm = lock_row(vm)
    check_not_elsewhere(vm)
    if Vm.select().where((Vm.account == vm.account_id) & (Vm.name == name)).exists():
        raise vm_exists(vm.account, name)
    for nic in nics_of(vm.id):
        networks.check_allowed(nic.network, vm.account)  # the account may have lost it since the VM was created
    disks = [lock_row(disk) for disk in disks_of(vm.id)]
    host = _copying_host(vm, disks)
    check_quota(
        vm.account_id,
        Resources(
            vms=1,
            cpus=vm.cpus,
            memory_bytes=vm.memory_bytes,
            volumes=len(disks),
            storage_bytes=sum(disk.size_bytes for disk in disks),
        ),
    )
    row = _record_vm(vm, name, keys)
    targets = [_record_volume(row, disk, keys) for disk in disks]
    inputs = CloneInputs(
        sources=tuple(disk.id for disk in disks),
        targets=tuple(target.id for target in targets),
        vm_id=vm.id if host is not None else "",
        host_id=host.id if host is not None else "",
        iter_time_ms=settings.encryption.LUKS_ITER_TIME.get(),
        firmware_of=vm.id if copy_firmware_state and firmware_states.is_kept(vm.id) else "",
        firmware_on=vm.host_id or vm.last_host_id or "",
    )
    return record_operation("vm.clone", row, user, inputs, also=[vm, *disks, *targets])


def _copying_host(vm: Vm, disks: list[Volume]) -> Host | None:
    """The host that must copy because the VM runs there; checks that every disk can be copied in its pool.

    Several disks of a running VM are copied together, so that the clone has them as of one moment.
    """
    hosts: list[Host | None] = []
    for disk in disks:
        check_ready(disk)
        encrypted = bool(disk.passphrase_id)
        placement_query.pools_for(
            disk.name, required_bytes(disk.provisioning, disk.size_bytes), encrypted, pool_id=disk.pool_id
        )
        hosts.append(choose_copying_host(disk.pool, disk.pool, encrypted, vm))
        matrix.check(matrix.Operation.COPY, disk, hosts[-1] is not None)
    host = hosts[0] if hosts else None
    if host is not None and len(disks) > 1:
        rules.need(Function.ONLINE_BACKUP, host)
        _check_thin(vm, disks)
    return host


def _check_thin(vm: Vm, disks: Sequence[Volume]) -> None:
    """Raises FailedPreconditionError CLONE_NEEDS_STOP: copies that are made together are thin."""
    for disk in disks:
        if disk.provisioning != "thin":
            raise FailedPreconditionError(
                f"volume {disk.name} is {disk.provisioning}, and only thin disks of a running VM are copied together; "
                f"stop the VM (ostler vm stop {vm.name}), or detach its data disks",
                "CLONE_NEEDS_STOP",
                {"vm": vm.id, "volume": disk.id},
            )


def _record_vm(vm: Vm, name: str, keys: Keyring) -> Vm:
    row: Vm = Vm.create(
        name=name,
        account=vm.account_id,
        service_offering=vm.service_offering_id,
        template=vm.template_id,
        template_name=vm.template_name,
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        firmware=vm.firmware,
        hypervisor_type=vm.hypervisor_type,
    )
    for nic in nics_of(vm.id):
        # Static addresses stay with the VM that has them: two guests with one address reach nobody.
        Nic.create(vm=row, position=nic.position, mac=new_mac(), network=nic.network, model=nic.model)
    kept = details.of_vms([vm.id]).get(vm.id, {})
    details.add(row, {key: value for key, value in kept.items() if not is_reserved(key)})
    machines.copy(vm, row)
    tpm.copy(vm, row, keys)
    labels.add(row, labels.of_objects(Vm, [vm.id]).get(vm.id, {}))
    for config in VmExtraConfig.select().where(VmExtraConfig.vm == vm.id):
        # An admin let the other VM pass the rules, not this one.
        VmExtraConfig.create(vm=row, name=config.name, xml=config.xml, override_by="")
    vm_user_data.assign(row, vm_user_data.given_to(vm.id, keys), vm.template, keys)
    return row


def _record_volume(row: Vm, source: Volume, keys: Keyring) -> Volume:
    volume_id = new_id()
    offering = source.disk_offering if source.disk_offering_id else None
    target: Volume = Volume.create(
        id=volume_id,
        name=copied.free_volume_name(row, root=source.root, slot=source.slot),
        account=row.account_id,
        pool=source.pool_id,
        template=source.template_id,
        disk_offering=offering,
        passphrase=keys.create(volume_id) if source.passphrase_id else None,
        size_bytes=source.size_bytes,
        format=source.format,
        provisioning=source.provisioning,
        root=source.root,
        vm_id=row.id,
        slot=source.slot,
    )
    io = disk_io.of_volume(source)
    if io.limits_are_own:
        disk_io.set_own(target, io.limits)
    return target


@workflow("vm.clone")
def _clone(run: Run) -> None:
    inputs = run.read(CloneInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: copied.record_failure(run, undo, inputs.targets, "not cloned"))
        if inputs.firmware_of:
            run.step(
                "firmware-state", lambda: firmware_states.copy_to_clone(run, inputs.firmware_of, inputs.firmware_on)
            )
        if inputs.host_id and len(inputs.sources) > 1:
            _copy_together(run, undo, inputs)
        else:
            for number in range(len(inputs.sources)):
                _copy_disk(run, undo, inputs, number)
        run.step("record", lambda: copied.record_stopped(run.resource_id))


def _copy_disk(run: Run, undo: Undo, inputs: CloneInputs, number: int) -> None:
    source_id, target_id = inputs.sources[number], inputs.targets[number]
    host_id: str = inputs.host_id or run.step(
        f"choose-{number}",
        lambda: host_jobs.choose_for_copy(run, load_volume(source_id), load_volume(target_id)),
    )
    undo.push(copied.removal(number), lambda: delete_file(run, host_id, target_id))
    run.step(f"copy-{number}", lambda: _fill(run, inputs, host_id, source_id, target_id))


def _copy_together(run: Run, undo: Undo, inputs: CloneInputs) -> None:
    for number, target_id in enumerate(inputs.targets):
        undo.push(copied.removal(number), partial(delete_file, run, inputs.host_id, target_id))
    run.step("copy-disks", lambda: _fill_all(run, inputs))


def _fill_all(run: Run, inputs: CloneInputs) -> None:
    targets = [load_volume(target_id) for target_id in inputs.targets]
    pairs = list(zip(map(load_volume, inputs.sources), targets, strict=True))
    found = copy_disks(run, inputs.host_id, pairs, inputs.iter_time_ms, vm_id=inputs.vm_id)
    with transaction():
        for target in targets:
            _record_filled(target, found[target.file_id])


def _fill(run: Run, inputs: CloneInputs, host_id: str, source_id: str, target_id: str) -> None:
    target = load_volume(target_id)
    info = copy_file(
        run,
        host_id,
        load_volume(source_id),
        target,
        inputs.iter_time_ms,
        size_bytes=target.size_bytes,
        vm_id=inputs.vm_id,
    )
    with transaction():
        _record_filled(target, info)


def _record_filled(target: Volume, info: volume_pb2.VolumeInfo) -> None:
    """Within the caller's transaction. Raises InternalError ENCRYPTION_MISSING."""
    found = wire.encrypt_format(target, info)
    Volume.update(state=VolumeState.READY, state_reason="", encrypt_format=found).where(
        Volume.id == target.id
    ).execute()
