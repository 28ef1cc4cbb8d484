"""Stopping a VM."""

from __future__ import annotations

from typing import Any

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.errors import bad_field

from ostler_control import settings
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of, is_up, silent
from ostler_control.models import Host, Operation
from ostler_control.operations import Run, lock_row, record_operation, workflow
from ostler_control.scheduling import capacity
from ostler_control.vms import wire
from ostler_control.vms.rows import EXECUTING, load, running_host, set_state

LONGEST_S = 3600


def stop(vm: Any, user: str, timeout_s: int = 0, force: bool = False) -> Operation:
    """Records the operation that stops a VM: its guest is asked, and after the timeout (0: the setting
    vm.stop.timeout), or at once with `force`, the plug is pulled. So is one stopped that somebody else has started.

    Raises InvalidArgumentError, FailedPreconditionError VM_STATE or HOST_SILENT.
    """
    if not 0 <= timeout_s <= LONGEST_S:
        raise bad_field("timeout_s", f"must be 0 to {LONGEST_S}", "INVALID_TIMEOUT")
    vm = lock_row(vm)
    outside = vm.state == "stopped" and vm.power_state in EXECUTING
    host = _outside_host(vm) if outside else running_host(vm)
    if force:
        timeout_s = 0
    elif timeout_s == 0:
        timeout_s = settings.vms.STOP_TIMEOUT.get(settings.At(cluster_id=host.cluster_id))
    inputs = {"host_id": host.id, "timeout_s": timeout_s, "outside": outside}
    operation = record_operation("vm.stop", vm, user, inputs)
    set_state(vm.id, "stopping")
    return operation


def _outside_host(vm: Any) -> Any:
    """The host on which somebody else has started the VM."""
    host: Any = Host.get_by_id(vm.last_host_id)
    if not is_up(host):
        raise silent(host, f"and VM {vm.name} may be running there")
    return host


@workflow("vm.stop")
def _stop(run: Run) -> None:
    host_id = run.inputs["host_id"]
    with run.undoing() as undo:
        undo.push("look", lambda: look(run, host_id))
        run.step("stop", lambda: _stop_on(run, host_id))


def _stop_on(run: Run, host_id: str) -> None:
    request = agent_pb2.StopVmRequest(operation=run.ref(), vm_id=run.resource_id, timeout_s=run.inputs["timeout_s"])
    run.job(address_of(host_id), lambda agent: agent.vms.StopVm, request)
    stopped(run.resource_id)


def stopped(vm_id: str) -> None:
    """Inside a step: records that a VM is off and gives its place back."""
    with transaction():
        capacity.release(load(vm_id))
        set_state(vm_id, "stopped", power_state="stopped")


def look(run: Run, host_id: str) -> None:
    """Inside a step, after stopping a VM went wrong: asks its host how it is, and records that.

    A host that does not answer leaves it as it was, as far as we know.
    """
    before = "stopped" if run.inputs["outside"] else "running"
    set_state(run.resource_id, before, power_state="")
    power_state = wire.power_word(wire.ask(run.agents, address_of(host_id), run.resource_id).power_state)
    if power_state in EXECUTING:
        set_state(run.resource_id, before, power_state=power_state)
    else:
        stopped(run.resource_id)
