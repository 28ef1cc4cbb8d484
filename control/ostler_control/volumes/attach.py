"""Attaching volumes to VMs and detaching them.

A stopped VM's disks are only rows: its definition is written anew at every start. A volume is attached by its row from
the moment the operation is recorded, so that no two operations give two volumes one slot.
"""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.errors import FailedPreconditionError, PermissionDeniedError, ResourceExhaustedError
from ostler_common.hypervisors import Function
from ostler_common.io_limits import to_message
from peewee import fn

from ostler_control.catalog import disk_io
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import check_host
from ostler_control.hosts.rows import address_of, lacks_encryption
from ostler_control.hypervisors import registry, rules
from ostler_control.hypervisors.supported import format_not_supported
from ostler_control.models import Host, Operation, Pool, PoolHost, Vm, Volume
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.scheduling import placement_query
from ostler_control.volumes import matrix, wire
from ostler_control.volumes.files import check_mirrors_resolved
from ostler_control.volumes.grow import check_ready
from ostler_control.volumes.rows import load, lock_with_vm, running_host, vm_of

MAX_DATA_DISKS = 24


@dataclass(frozen=True)
class AttachInputs:
    """host_id: where the VM runs, "" when it is stopped."""

    vm_id: str
    host_id: str


def attach(volume: Volume, vm: Vm, user: str) -> Operation:
    """Records the operation that attaches a volume to a VM.

    Raises FailedPreconditionError: VOLUME_STATE, ALREADY_ATTACHED, VM_STATE, HOST_SILENT, LACKS_VOLUME_ENCRYPTION
    (naming the host and its failed probe), LACKS_POOL, NO_COMMON_HOST,
    FUNCTION_NOT_SUPPORTED, FORMAT_NOT_SUPPORTED; ResourceExhaustedError TOO_MANY_DISKS.
    """
    vm, volume = lock_row(vm), lock_row(volume)
    check_ready(volume)
    if volume.vm_id:
        holder = vm_of(volume)
        raise FailedPreconditionError(
            f"volume {volume.name} is attached to VM {holder.name if holder else volume.vm_id}; detach it first",
            "ALREADY_ATTACHED",
            {"vm": volume.vm_id},
        )
    if volume.account_id != vm.account_id:
        raise PermissionDeniedError("the volume and the VM belong to different accounts", "OTHER_ACCOUNT")
    host = running_host(vm)
    matrix.check(matrix.Operation.ATTACH, volume, host is not None)
    if host is not None:
        _check_host(host, volume)
    else:
        _check_type(vm, volume)
        check_startable(vm, volume, volume.pool, bool(volume.passphrase_id))
    inputs = AttachInputs(vm.id, host.id if host else "")
    operation = record_operation("volume.attach", volume, user, inputs, also=[vm])
    Volume.update(vm_id=vm.id, slot=_free_slot(vm)).where(Volume.id == volume.id).execute()
    return operation


def _check_host(host: Host, volume: Volume) -> None:
    rules.need(Function.HOT_PLUG, host)
    if volume.passphrase_id:
        rules.need(Function.VOLUME_ENCRYPTION, host)
    if disk_io.of_volume(volume).limits:
        rules.need(Function.IO_LIMITS, host)
    formats = registry.split(host.template_formats)
    if formats and volume.format not in formats:
        raise format_not_supported(f"volume {volume.name}", volume.format, rules.name_of(host.hypervisor_type))
    check_host(host, volume.pool, bool(volume.passphrase_id))


def check_startable(vm: Vm, volume: Volume, pool: Pool, encrypted: bool) -> None:
    """A stopped VM must be able to start on some host with all its disks, with this volume in that pool, encrypted or
    not. Whether that host is up or full now does not count.

    Raises FailedPreconditionError NO_COMMON_HOST, LACKS_VOLUME_ENCRYPTION.
    """
    others = Volume.select(Volume.pool).where((Volume.vm_id == vm.id) & (Volume.id != volume.id))
    pools = {pool.id, *(other.pool_id for other in others)}
    encrypted = encrypted or placement_query.demand_of(vm).volume_encryption
    reached = fn.COUNT(PoolHost.pool.distinct())
    hosts = Host.select().join(PoolHost).where(PoolHost.pool.in_(pools) & PoolHost.reachable & ~Host.removed)
    common = list(hosts.group_by(Host).having(reached == len(pools)).order_by(Host.name))
    if not common:
        raise FailedPreconditionError(
            f"no host reaches both pool {pool.name} and the pools of the other disks of VM {vm.name}: "
            "the VM could not start anywhere",
            "NO_COMMON_HOST",
        )
    if encrypted and not any(host.volume_encryption for host in common):
        raise lacks_encryption(common[0])


def _check_type(vm: Vm, volume: Volume) -> None:
    of_type = rules.known().get(vm.hypervisor_type)
    if of_type is None or not of_type.reported:
        return
    if volume.format not in of_type.template_formats:
        raise format_not_supported(f"volume {volume.name}", volume.format, of_type.display_name)
    if disk_io.of_volume(volume).limits:
        rules.need_of_type(Function.IO_LIMITS, vm.hypervisor_type)
    if volume.passphrase_id:
        rules.need_of_type(Function.VOLUME_ENCRYPTION, vm.hypervisor_type)


def _free_slot(vm: Vm) -> int:
    used = {row.slot for row in Volume.select(Volume.slot).where(Volume.vm_id == vm.id)}
    free = next((slot for slot in range(1, MAX_DATA_DISKS + 1) if slot not in used), None)
    if free is None:
        raise ResourceExhaustedError(
            f"VM {vm.name} has {MAX_DATA_DISKS} data disks, which is the maximum; detach one first", "TOO_MANY_DISKS"
        )
    return free


def detach(volume: Volume, user: str) -> Operation:
    """Records the operation that detaches a volume.

    Raises FailedPreconditionError: NOT_ATTACHED, ROOT_VOLUME, VM_STATE, HOST_SILENT, FUNCTION_NOT_SUPPORTED.
    """
    vm, volume = lock_with_vm(volume)
    if vm is None:
        raise FailedPreconditionError(f"volume {volume.name} is not attached", "NOT_ATTACHED")
    if volume.root:
        raise FailedPreconditionError(
            f"volume {volume.name} is the root disk of VM {vm.name} and cannot be detached", "ROOT_VOLUME"
        )
    host = running_host(vm)
    check_mirrors_resolved([volume])
    if host is not None:
        rules.need(Function.HOT_PLUG, host)
    matrix.check(matrix.Operation.DETACH, volume, host is not None)
    inputs = AttachInputs(vm.id, host.id if host else "")
    return record_operation("volume.detach", volume, user, inputs, also=[vm])


@workflow("volume.attach")
def _attach(run: Run) -> None:
    inputs = run.read(AttachInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        if inputs.host_id:
            undo.push("detach", lambda: _detach_from_running(run, inputs))
            run.step("attach", lambda: _attach_to_running(run, inputs))


@workflow("volume.detach")
def _detach(run: Run) -> None:
    inputs = run.read(AttachInputs)
    if inputs.host_id:
        run.step("detach", lambda: _detach_from_running(run, inputs))
    run.step("record", lambda: _record_detached(run))


def _attach_to_running(run: Run, inputs: AttachInputs) -> None:
    volume = load(run.resource_id)
    with session():
        io = disk_io.of_volume(volume)
    disk = vm_pb2.DiskSpec(
        volume=wire.keyed_ref(volume, run.keys),
        slot=volume.slot,
        serial=volume.id,
        limits=to_message(io.limits) if io.limits else None,
        ignore_discard=io.ignore_discard,
    )
    request = agent_pb2.AttachVolumeRequest(operation=run.ref(), vm_id=inputs.vm_id, disk=disk)
    run.job(address_of(inputs.host_id), lambda agent: agent.vms.AttachVolume, request)


def _detach_from_running(run: Run, inputs: AttachInputs) -> None:
    volume = load(run.resource_id)
    request = agent_pb2.DetachVolumeRequest(
        operation=run.ref(),
        vm_id=inputs.vm_id,
        volume_id=volume.file_id,
        key_id=volume.passphrase_id or "",
    )
    run.job(address_of(inputs.host_id), lambda agent: agent.vms.DetachVolume, request)


def _record_detached(run: Run) -> None:
    with transaction():
        Volume.update(vm_id="", slot=-1, state_reason="").where(Volume.id == run.resource_id).execute()


def _record_failure(run: Run, undo: Undo) -> None:
    if not undo.failed("detach"):
        _record_detached(run)
        return
    # It is not known whether the host attached it: the row still says so, and detaching works in either case.
    with transaction():
        reason = f"may not be attached: {undo.error}; detach it"
        Volume.update(state_reason=reason).where(Volume.id == run.resource_id).execute()
