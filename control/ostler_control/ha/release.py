"""Gives a host that has ended its VMs the right to run VMs again, once the control plane knows which ones ended."""

from __future__ import annotations

from collections.abc import Callable

from ostler.agent.v1 import host_pb2 as agent_pb
from ostler.agent.v1 import vm_pb2 as agent_vm
from ostler_common.errors import AbortedError, OstlerError

from ostler_control.agents.power_states import power_state
from ostler_control.database import session
from ostler_control.hosts.rows import address_of
from ostler_control.models import HostGuard, Vm, tuples
from ostler_control.operations import Run
from ostler_control.states import PowerState, VmState

_ASK_EVERY_S = 1.0
_WAIT_S = 60.0


def release_guard(run: Run) -> None:
    """Does nothing for a host whose guardian has ended nothing. Raises AbortedError NOT_RELEASED when the host does not
    follow in time, UnavailableError HOST_UNREACHABLE; then it is tried again."""
    with session():
        row = HostGuard.get_or_none((HostGuard.host == run.resource_id) & (HostGuard.pool_id != ""))
    if row is None or not _has_ended(run, row.pool_id):
        return
    _wait(run, lambda: not _unnoticed(run), "VMs that ended there are not recorded as stopped yet")
    _keep(run, row.pool_id, _keep(run, row.pool_id, "").stamp)
    _wait(run, lambda: not _has_ended(run, row.pool_id), "its guardian does not take the grant")


def _has_ended(run: Run, pool_id: str) -> bool:
    try:
        return _keep(run, pool_id, "").state == agent_pb.Guard.ENDED
    except OstlerError as error:
        if error.reason == "HOST_UNREACHABLE":
            raise
        return False  # no guardian, so none that ends VMs


def _wait(run: Run, condition: Callable[[], bool], why: str) -> None:
    for _ in range(round(_WAIT_S / _ASK_EVERY_S)):
        if condition():
            return
        run.pause(_ASK_EVERY_S)
    raise AbortedError(f"the host is not given back yet: {why}", "NOT_RELEASED")


def _keep(run: Run, pool_id: str, stamp: str) -> agent_pb.Guard:
    request = agent_pb.KeepGuardRequest(pool_id=pool_id, stamp=stamp)
    return run.agents.call(address_of(run.resource_id), lambda agent: agent.host.KeepGuard, request)


def _unnoticed(run: Run) -> set[str]:
    """Ids of the VMs that are recorded as running on the host and do not run there."""
    answer = run.agents.call(address_of(run.resource_id), lambda agent: agent.vms.ListVms, agent_vm.ListVmsRequest())
    running = {vm.vm_id for vm in answer.vms if power_state(vm.power_state).is_executing}
    with session():
        placed = (Vm.host == run.resource_id) & (Vm.state == VmState.RUNNING)
        recorded = Vm.select(Vm.id).where(placed, Vm.power_state.in_((PowerState.RUNNING, PowerState.PAUSED)))
        return {vm_id for (vm_id,) in tuples(recorded, tuple[str])} - running
