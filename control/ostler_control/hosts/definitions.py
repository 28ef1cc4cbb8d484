"""Deletes definitions of VMs that a host kept while it was silent: the VM was started elsewhere meanwhile, or deleted.

Only a definition goes, with what firmware keeps for it on that host; disks stay. The operation holds the VM, so that no
other moves it meanwhile, and asks both hosts again before it deletes anything. UEFI variables and the state of a TPM
that the fleet has no copy of are not destroyed: the definition of such a VM stays, and an event tells of it.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.errors import AbortedError, NotFoundError
from ostler_common.hypervisors import Function

from ostler_control import events
from ostler_control.agents.power_states import power_state
from ostler_control.catalog.firmware import is_uefi
from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address_of, is_up
from ostler_control.hypervisors import rules
from ostler_control.models import (
    Event,
    Host,
    Operation,
    OperationState,
    PowerState,
    Vm,
    VmFirmwareState,
    VmSighting,
    VmState,
    VmTpm,
    tuples,
)
from ostler_control.operations import Run, launch, lock_row, record_operation, workflow

VERB = "host.delete-definition"

_ASK_DEADLINE_S = 10.0
# The VM is held meanwhile: a host that falls silent again is left for later.
_PATIENCE_S = 20.0
_MAX_TRIES = 3


@dataclass(frozen=True)
class Left:
    """A definition on a host that is not its VM's. vm_name: for people."""

    host_id: str
    vm_id: str
    vm_name: str


@dataclass(frozen=True)
class DeleteInputs:
    """What `host.delete-definition` is given. home_id: the host that has the VM, "" for a VM that was deleted."""

    vm_id: str
    vm_name: str
    home_id: str


class Answer(StrEnum):
    """What the hosts say of a definition. FIRMWARE: with it would go what the fleet has no copy of."""

    LEFT = "left"
    FIRMWARE = "firmware"
    NOT_LEFT = "not-left"


def deleted(vm_ids: Collection[str]) -> set[str]:
    """Those of these VMs of which the audit log has the deletion: within the caller's session."""
    ended = (Event.type == "vm.delete") & (Event.outcome == events.Outcome.SUCCEEDED)
    query = Event.select(Event.resource_id).where(ended, Event.resource_id.in_(sorted(vm_ids)))
    return {vm_id for (vm_id,) in tuples(query, tuple[str])}


def delete_left(found: Left) -> Operation | None:
    """Starts the operation that deletes the definition; None when that is not to be done now: the host is not up, the
    VM is recorded there or may run there, or an operation holds it."""
    try:
        with transaction():
            operation = _record(found)
    except (AbortedError, NotFoundError):  # somebody was faster
        return None
    if operation is not None:
        launch(operation)
    return operation


def _record(found: Left) -> Operation | None:
    host = Host.get_or_none(Host.id == found.host_id)
    if host is None or not is_up(host):
        return None
    vm = Vm.get_or_none(Vm.id == found.vm_id)
    home_id = ""
    if vm is not None:
        vm = lock_row(vm)
        home_id = _home_of(vm, host.id)
    elif not deleted([found.vm_id]):
        return None
    operation_id = _next_id(host, vm, found.vm_id)
    if (vm is not None and not home_id) or not operation_id:
        return None
    inputs = DeleteInputs(found.vm_id, vm.name if vm else found.vm_name, home_id)
    held = [vm] if vm else []
    return record_operation(VERB, host, events.SYSTEM, inputs, also=held, operation_id=operation_id)


def _next_id(host: Host, vm: Vm | None, vm_id: str) -> str:
    """The next operation's id; "" when there is nothing to try until the VM or the host changes its state again: one
    was carried out already, is under way, or several have failed."""
    when = f"{host.state_time.isoformat()}/{vm.state_time.isoformat() if vm else 'deleted'}"
    for number in range(_MAX_TRIES):
        operation_id = str(uuid.uuid5(uuid.UUID(vm_id), f"left/{host.id}/{when}/{number}"))
        before = Operation.get_or_none(Operation.id == operation_id)
        if before is None:
            return operation_id
        if before.state is not OperationState.FAILED:
            return ""
    return ""


def _home_of(vm: Vm, host_id: str) -> str:
    """The host that is recorded to have the VM; "" when it may be this one, or none has it for certain."""
    home_id = {VmState.RUNNING: vm.host_id, VmState.STOPPED: vm.last_host_id}.get(vm.state) or ""
    seen_here = VmSighting.select().where(VmSighting.vm == vm.id, VmSighting.host == host_id).exists()
    return "" if seen_here or host_id in (home_id, vm.host_id, vm.destination_id) else home_id


@workflow(VERB)
def _delete(run: Run) -> None:
    inputs = run.read(DeleteInputs)
    answer = Answer(run.step("look", lambda: _look(run, inputs)))
    if answer is Answer.LEFT:
        run.step("delete", lambda: _undefine(run, inputs.vm_id))
    if answer is not Answer.NOT_LEFT:
        run.step("tell", lambda: _tell(run, inputs, answer))


def _look(run: Run, inputs: DeleteInputs) -> Answer:
    """Whether the host has a definition that does not run, and the VM is where it is recorded. Raises UnavailableError
    HOST_UNREACHABLE, and what the agents raise."""
    found = _ask(run, run.resource_id, inputs.vm_id)
    if not found.managed or found.migrating or power_state(found.power_state) is not PowerState.STOPPED:
        return Answer.NOT_LEFT
    if not inputs.home_id:
        return Answer.LEFT
    at_home = _ask(run, inputs.home_id, inputs.vm_id)
    if at_home.migrating or power_state(at_home.power_state) in (PowerState.ABSENT, PowerState.UNKNOWN):
        return Answer.NOT_LEFT
    return Answer.FIRMWARE if holds_firmware_alone(run, inputs.vm_id) else Answer.LEFT


def holds_firmware_alone(run: Run, vm_id: str) -> bool:
    """Whether the run's host has UEFI variables or the state of a TPM that the fleet has no copy of: the VM may have
    started elsewhere with an older copy, or with a new TPM. Never of a VM that was deleted.

    Raises UnavailableError HOST_UNREACHABLE, and what the agent raises.
    """
    with session():
        vm = Vm.get_or_none(Vm.id == vm_id)
        if vm is None or not (is_uefi(vm.firmware) or VmTpm.select().where(VmTpm.vm == vm_id).exists()):
            return False
        if not rules.supports(Function.FIRMWARE_STATE, Host.get_by_id(run.resource_id)):
            return True
        copy = VmFirmwareState.get_or_none(VmFirmwareState.vm == vm_id)
    request = agent_pb2.ReadFirmwareStateRequest(vm_id=vm_id)
    found = run.agents.call(address_of(run.resource_id), lambda agent: agent.vms.ReadFirmwareState, request)
    content = vm_pb2.FirmwareState(variables=found.variables, tpm=found.tpm).SerializeToString()
    return bool(content) and (copy is None or copy.sha256 != hashlib.sha256(content).hexdigest())


def _ask(run: Run, host_id: str, vm_id: str) -> vm_pb2.VmInfo:
    request = agent_pb2.GetVmRequest(vm_id=vm_id)
    return run.agents.call(address_of(host_id), lambda agent: agent.vms.GetVm, request, _ASK_DEADLINE_S)


def _undefine(run: Run, vm_id: str) -> None:
    """The agent refuses a VM that runs, or is paused."""
    request = agent_pb2.DeleteVmRequest(operation=run.ref(), vm_id=vm_id)
    run.job(address_of(run.resource_id), lambda agent: agent.vms.DeleteVm, request, patience_s=_PATIENCE_S)


def _tell(run: Run, inputs: DeleteInputs, answer: Answer) -> None:
    if answer is Answer.FIRMWARE:
        record_kept(run, inputs.vm_id, inputs.vm_name, inputs.home_id)
        return
    where = f"is on host {_name(inputs.home_id)}" if inputs.home_id else "was deleted"
    _record_event(run, "host.vm.definition-deleted", inputs.vm_name, where, "it was deleted there")


def record_kept(run: Run, vm_id: str, vm_name: str, home_id: str) -> None:
    """Tells that the run's host keeps the definition of a VM because of what firmware keeps there. home_id: the host
    that has the VM, "" while none has it."""
    what = (
        "it stays, because UEFI variables or the state of a TPM are there that no copy has; never start it there "
        f"(when the VM is well: virsh undefine --nvram {vm_id} on host {_name(run.resource_id)})"
    )
    where = f"is on host {_name(home_id)}" if home_id else "is on no host now"
    _record_event(run, "host.vm.definition-kept", vm_name, where, what)


def _name(host_id: str) -> str:
    with session():
        host = Host.get_or_none(Host.id == host_id)
        return host.name if host else ""


def _record_event(run: Run, kind: str, vm_name: str, where: str, what: str) -> None:
    name = _name(run.resource_id)
    message = f"host {name} still had the definition of VM {vm_name}, which {where}: {what}"
    with transaction():
        events.record(
            kind,
            events.Outcome.NOTICED,
            events.SYSTEM,
            "host",
            run.resource_id,
            name,
            message,
            operation_id=run.id,
        )
