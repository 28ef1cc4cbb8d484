"""Network interfaces that a VM gets and loses: rows while it is stopped, hot-plugged while it runs.

The row of a new interface exists from the moment its operation is recorded, so that nobody else gets its MAC address.
"""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function
from peewee import fn

from ostler_control import networks
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Nic, Operation, Vm, new_id
from ostler_control.networks.needs import needs_of
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.userdata import addressing
from ostler_control.vms import wire
from ostler_control.vms.rows import find_nic, set_attention
from ostler_control.vms.wanted import NewNic, check_count, check_nic
from ostler_control.volumes.rows import running_host

_DETACH = "detach"


@dataclass(frozen=True)
class NicInputs:
    """host_id: where the VM runs, "" when it is stopped."""

    nic_id: str
    mac: str
    host_id: str


def add_nic(vm: Vm, wanted: NewNic, user: str) -> Operation:
    """Records the operation that adds a network interface to a VM.

    Raises what `wanted.check_nic` and `networks.check_host` raise; FailedPreconditionError VM_STATE, HOST_SILENT,
    FUNCTION_NOT_SUPPORTED, OTHER_ZONE.
    """
    vm = lock_row(vm)
    host = running_host(vm)
    check_count("nic", Nic.select().where(Nic.vm == vm).count() + 1)
    nic = check_nic("nic", wanted, vm.account)
    _check_zone(vm, nic)
    _check_functions(vm, host, nic)
    nic_id = new_id()
    inputs = NicInputs(nic_id, nic.mac, host.id if host else "")
    operation = record_operation("vm.add-nic", vm, user, inputs)
    last = Nic.select(fn.MAX(Nic.position)).where(Nic.vm == vm).scalar()
    row = Nic.create(
        id=nic_id,
        vm=vm,
        position=0 if last is None else last + 1,
        mac=nic.mac,
        network=nic.network,
        model=nic.model,
    )
    addressing.record(row.id, nic.addressing)
    return operation


def remove_nic(vm: Vm, mac: str, user: str) -> Operation:
    """Records the operation that removes the network interface with this MAC address.

    Raises NotFoundError NIC_NOT_FOUND; FailedPreconditionError VM_STATE, HOST_SILENT, FUNCTION_NOT_SUPPORTED.
    """
    vm = lock_row(vm)
    host = running_host(vm)
    nic = find_nic(vm, mac)
    if host is not None:
        rules.need(Function.NIC_HOT_PLUG, host)
    return record_operation("vm.remove-nic", vm, user, NicInputs(nic.id, nic.mac, host.id if host else ""))


def _check_zone(vm: Vm, nic: NewNic) -> None:
    others = needs_of(vm.id).network_zones - {nic.network.zone_id}
    if others:
        raise FailedPreconditionError(
            f"network {nic.network.name} is in another zone than the other networks of VM {vm.name}", "OTHER_ZONE"
        )


def _check_functions(vm: Vm, host: Host | None, nic: NewNic) -> None:
    if host is None:
        rules.need_of_type(Function.NICS, vm.hypervisor_type)
        return
    rules.need(Function.NIC_HOT_PLUG, host)
    networks.check_host(host, nic.network)


@workflow("vm.add-nic")
def _add(run: Run) -> None:
    inputs = run.read(NicInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        if inputs.host_id:
            undo.push(_DETACH, lambda: _detach(run, inputs))
            run.step("attach", lambda: _attach(run, inputs))


@workflow("vm.remove-nic")
def _remove(run: Run) -> None:
    inputs = run.read(NicInputs)
    if inputs.host_id:
        run.step(_DETACH, lambda: _detach(run, inputs))
    run.step("record", lambda: _delete_row(inputs))


def _attach(run: Run, inputs: NicInputs) -> None:
    [nic] = [nic for nic in wire.nics(run.resource_id) if nic.mac == inputs.mac]
    request = agent_pb2.AttachNicRequest(operation=run.ref(), vm_id=run.resource_id, nic=nic)
    run.job(address_of(inputs.host_id), lambda agent: agent.vms.AttachNic, request)


def _detach(run: Run, inputs: NicInputs) -> None:
    request = agent_pb2.DetachNicRequest(operation=run.ref(), vm_id=run.resource_id, mac=inputs.mac)
    run.job(address_of(inputs.host_id), lambda agent: agent.vms.DetachNic, request)


def _delete_row(inputs: NicInputs) -> None:
    with transaction():
        Nic.delete().where(Nic.id == inputs.nic_id).execute()


def _record_failure(run: Run, undo: Undo) -> None:
    inputs = run.read(NicInputs)
    if not undo.failed(_DETACH):
        _delete_row(inputs)
        return
    # It is not known whether the VM has it: the row still says so, and removing it works in either case.
    set_attention(run.resource_id, f"interface {inputs.mac} may be missing: {undo.error}; remove it")
