"""Handing a VM back to plain libvirt: its definition and its files stay on its host, running; its rows go."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import adoption_pb2 as pb
from ostler.agent.v1 import vm_pb2
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from ostler_control import events
from ostler_control.agents import power_states
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of, is_up, silent
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Operation, PowerState, Snapshot, Vm, VmState, Volume
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.userdata import vm_user_data
from ostler_control.vms import firmware_states, tpm, wire
from ostler_control.vms.adopt import forget
from ostler_control.vms.rows import check_not_elsewhere, disks_of, load, wrong_state
from ostler_control.volumes.files import check_mirrors_resolved

_DEVICE_POOLS = ("powerflex",)


@dataclass(frozen=True)
class UnmanageInputs:
    """host_id: where the VM is defined, and stays; define: it is stopped, and its definition is written anew first."""

    host_id: str
    define: bool


def unmanage(vm: Vm, user: str) -> Operation:
    """Records the operation that hands a VM back.

    Raises FailedPreconditionError: VM_STATE, HOST_SILENT, RUNS_ELSEWHERE, FUNCTION_NOT_SUPPORTED, VOLUME_ENCRYPTED,
    TPM_ENCRYPTED, SNAPSHOTS_EXIST, POOL_OF_DEVICES, MIRROR_UNRESOLVED.
    """
    vm = lock_row(vm)
    check_not_elsewhere(vm)
    host = _host(vm)
    rules.need(Function.ADOPTION, host)
    volumes = disks_of(vm.id)
    check_mirrors_resolved(volumes)
    for volume in volumes:
        _check_volume(vm, volume)
    if tpm.has_one(vm.id):
        raise FailedPreconditionError(
            f"VM {vm.name} has a TPM, and its key stays in Ostler: without Ostler the VM could not start again",
            "TPM_ENCRYPTED",
            {"vm": vm.id},
        )
    return record_operation("vm.unmanage", vm, user, UnmanageInputs(host.id, vm.state is VmState.STOPPED), also=volumes)


def _host(vm: Vm) -> Host:
    """Where it is defined: the host on which it runs, or ran last."""
    if vm.state not in (VmState.RUNNING, VmState.STOPPED):
        raise wrong_state(vm, "running or stopped")
    host_id = vm.host_id or vm.last_host_id
    if host_id is None:
        raise FailedPreconditionError(
            f"VM {vm.name} is defined on no host; start it once, then unmanage it", "VM_STATE", {"vm": vm.id}
        )
    host = Host.get_by_id(host_id)
    if host.removed or not is_up(host):
        raise silent(host, f"and VM {vm.name} is defined there")
    return host


def _check_volume(vm: Vm, volume: Volume) -> None:
    if volume.passphrase_id:
        raise FailedPreconditionError(
            f"volume {volume.name} of VM {vm.name} is encrypted, and its key stays in Ostler: without Ostler the VM "
            "could not start again. Move its data to a plain volume first, or download it",
            "VOLUME_ENCRYPTED",
            {"volume": volume.id},
        )
    if volume.pool.type in _DEVICE_POOLS:
        raise FailedPreconditionError(
            f"volume {volume.name} is a device that Ostler maps when the VM starts; move it to a pool of files first",
            "POOL_OF_DEVICES",
            {"volume": volume.id},
        )
    if Snapshot.select().where(Snapshot.volume_id == volume.id).exists():
        raise FailedPreconditionError(
            f"volume {volume.name} has snapshots; delete them first (ostler snapshot delete)",
            "SNAPSHOTS_EXIST",
            {"volume": volume.id},
        )


@workflow("vm.unmanage")
def _unmanage(run: Run) -> None:
    """Nothing is undone: a VM whose mark is gone and whose rows are still there is unmanaged again, or stays as it
    is; its host gives it the mark anew at its next start."""
    inputs = run.read(UnmanageInputs)
    if inputs.define:
        run.step("define", lambda: _define(run, inputs))
    run.step("release", lambda: _release(run, inputs))
    run.always("forget", lambda: _forget(run))


def _define(run: Run, inputs: UnmanageInputs) -> None:
    """A VM that was never started, or not lately, may have no definition, or an old one."""
    vm = load(run.resource_id)
    request = vm_pb2.DefineVmRequest(operation=run.ref(), spec=wire.spec(vm, run.keys))
    run.job(address_of(inputs.host_id), lambda agent: agent.vms.DefineVm, request)


def _release(run: Run, inputs: UnmanageInputs) -> None:
    request = pb.ReleaseVmRequest(operation=run.ref(), vm_id=run.resource_id)
    update = run.job(address_of(inputs.host_id), lambda agent: agent.adoption.ReleaseVm, request)
    if power_states.power_state(update.vm.power_state) is PowerState.ABSENT:
        raise FailedPreconditionError("the VM is not on its host any more; nothing was forgotten", "VM_ABSENT")


def _forget(run: Run) -> None:
    with transaction():
        vm = Vm.get_or_none(Vm.id == run.resource_id)
        if vm is None:
            return
        host = Host.get_by_id(vm.host_id or vm.last_host_id)
        files = ", ".join(f"{volume.file_id} in pool {volume.pool.name}" for volume in disks_of(vm.id))
        events.record(
            "vm.unmanage.report",
            events.Outcome.SUCCEEDED,
            run.user,
            "vm",
            vm.id,
            vm.name,
            f"left on host {host.name} as libvirt's {vm.id}, with its disks: {files}",
            operation_id=run.id,
            account_id=vm.account_id,
        )
        vm_user_data.forget_all(vm.id)
        firmware_states.forget(vm.id)
        forget(vm.id, run.user, run.id)
