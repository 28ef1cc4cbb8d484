"""Stopping a VM."""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.errors import bad_field

from ostler_control import settings
from ostler_control.agents import power_states
from ostler_control.database import transaction
from ostler_control.hosts import absences
from ostler_control.hosts.rows import address_of, is_up, silent
from ostler_control.models import Host, Operation, PowerState, Vm, VmState
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.scheduling import capacity
from ostler_control.vms import firmware_states, wire
from ostler_control.vms.rows import hosts_elsewhere, load, running_host, set_state

MAX_TIMEOUT_S = 3600


@dataclass(frozen=True)
class StopInputs:
    """What `vm.stop` is given. outside: somebody started the VM outside Ostler, which records it as stopped."""

    host_id: str
    timeout_s: int
    outside: bool


def stop(vm: Vm, user: str, timeout_s: int = 0, force: bool = False) -> Operation:
    """Records the operation that stops a VM: asks its guest to shut down, and forces it off after the timeout (0: the
    setting vm.stop.timeout), or at once with `force`. Also stops a VM that was started outside Ostler.

    Raises InvalidArgumentError, FailedPreconditionError VM_STATE or HOST_SILENT.
    """
    if not 0 <= timeout_s <= MAX_TIMEOUT_S:
        raise bad_field("timeout_s", f"must be 0 to {MAX_TIMEOUT_S}", "INVALID_TIMEOUT")
    vm = lock_row(vm)
    outside = vm.state is VmState.STOPPED and vm.power_state.is_executing
    host = _outside_host(vm) if outside else running_host(vm)
    if force:
        timeout_s = 0
    elif timeout_s == 0:
        timeout_s = settings.vms.STOP_TIMEOUT.get(settings.At(cluster_id=host.cluster_id))
    operation = record_operation("vm.stop", vm, user, StopInputs(host.id, timeout_s, outside))
    set_state(vm.id, VmState.STOPPING)
    return operation


def _outside_host(vm: Vm) -> Host:
    """The host on which somebody has started the VM outside Ostler."""
    host = Host.get_by_id(vm.last_host_id)
    if not is_up(host):
        raise silent(host, f"and VM {vm.name} may be running there")
    return host


@workflow("vm.stop")
def _stop(run: Run) -> None:
    inputs = run.read(StopInputs)
    with run.undoing() as undo:
        undo.push("record-power-state", lambda: _record_power_state(run, inputs))
        run.step("stop", lambda: _stop_on(run, inputs))
    firmware_states.keep_step(run, inputs.host_id)


def _stop_on(run: Run, inputs: StopInputs) -> None:
    request = agent_pb2.StopVmRequest(operation=run.ref(), vm_id=run.resource_id, timeout_s=inputs.timeout_s)
    update = run.job(address_of(inputs.host_id), lambda agent: agent.vms.StopVm, request)
    # Not at once: an attempt that was overtaken, as that of a replica which was frozen, must not undo a later start.
    run.defer_write(lambda: _record_stopped(run.resource_id, inputs.host_id, update.vm))


def _record_stopped(vm_id: str, host_id: str, answer: vm_pb2.VmInfo) -> None:
    """Inside a step: records that a VM is off, as its host answers, and releases its capacity."""
    with transaction():
        vm = load(vm_id)
        capacity.release(vm)
        absences.record(vm_id, host_id, answer)
        set_state(vm_id, VmState.STOPPED, power_state=PowerState.STOPPED, attention=_seen_elsewhere(vm))


def _seen_elsewhere(vm: Vm) -> str:
    """What is still to be told of a VM that is off on its own host. The watcher looks at it again a while later."""
    names = [host.name for host in hosts_elsewhere(vm)]
    return f"was last seen running on host {' and '.join(names)}, where Ostler did not place it" if names else ""


def _record_power_state(run: Run, inputs: StopInputs) -> None:
    """After a failed stop: asks the host for the VM's power state and records it; while the host does not answer, the
    VM keeps the state it had and its power state is unknown."""
    before = VmState.STOPPED if inputs.outside else VmState.RUNNING
    set_state(run.resource_id, before, power_state=PowerState.UNKNOWN)
    info = wire.ask(run.agents, address_of(inputs.host_id), run.resource_id)
    power_state = power_states.power_state(info.power_state)
    if power_state.is_executing:
        run.defer_write(lambda: set_state(run.resource_id, before, power_state=power_state))
    else:
        run.defer_write(lambda: _record_stopped(run.resource_id, inputs.host_id, info))
