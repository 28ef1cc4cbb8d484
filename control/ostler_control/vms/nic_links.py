"""Links of network interfaces, set up and down like a cable that is plugged in and out."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.hypervisors import Function

from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import rules
from ostler_control.models import NicDown, Operation, Vm
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.vms.rows import down_of, find_nic, set_attention
from ostler_control.volumes.rows import running_host

_RESTORE = "restore"


@dataclass(frozen=True)
class LinkInputs:
    """host_id: where the VM runs, "" when it is stopped; up: as it is to be; was_up: as it was."""

    nic_id: str
    mac: str
    host_id: str
    up: bool
    was_up: bool


def set_link(vm: Vm, mac: str, up: bool, user: str) -> Operation:
    """Records the operation that sets the link of a VM's interface up or down.

    Raises NotFoundError NIC_NOT_FOUND; FailedPreconditionError VM_STATE, HOST_SILENT, FUNCTION_NOT_SUPPORTED.
    """
    vm = lock_row(vm)
    host = running_host(vm)
    nic = find_nic(vm, mac)
    if host is not None:
        rules.need(Function.NIC_LINK, host)
    else:
        rules.need_of_type(Function.NIC_LINK, vm.hypervisor_type)
    inputs = LinkInputs(nic.id, nic.mac, host.id if host else "", up, nic.id not in down_of([nic.id]))
    return record_operation("vm.set-nic-link", vm, user, inputs)


@workflow("vm.set-nic-link")
def _set(run: Run) -> None:
    inputs = run.read(LinkInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        if inputs.host_id:
            undo.push(_RESTORE, lambda: _set_on_host(run, inputs, inputs.was_up))
            run.step("set", lambda: _set_on_host(run, inputs, inputs.up))
        run.step("record", lambda: _record(inputs))


def _set_on_host(run: Run, inputs: LinkInputs, up: bool) -> None:
    request = agent_pb2.SetNicLinkRequest(operation=run.ref(), vm_id=run.resource_id, mac=inputs.mac, up=up)
    run.job(address_of(inputs.host_id), lambda agent: agent.vms.SetNicLink, request)


def _record(inputs: LinkInputs) -> None:
    with transaction():
        NicDown.delete().where(NicDown.nic == inputs.nic_id).execute()
        if not inputs.up:
            NicDown.create(nic=inputs.nic_id)


def _record_failure(run: Run, undo: Undo) -> None:
    if undo.failed(_RESTORE):
        mac = run.read(LinkInputs).mac
        set_attention(
            run.resource_id, f"the link of interface {mac} may be other than shown: {undo.error}; set it again"
        )
