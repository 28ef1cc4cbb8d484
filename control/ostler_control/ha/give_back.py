"""Gives a fenced host back when it is heard again: first the definitions of VMs that were freed are deleted there.

One with which UEFI variables or the state of a TPM would go that the fleet has no copy of stays (see
`hosts.definitions`): a VM that ran until the host was off has often changed them since its last copy.
"""

from __future__ import annotations

from functools import partial

import structlog
from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.errors import OstlerError

from ostler_control.agents.power_states import power_state
from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.ha.free import is_in_doubt, take_back
from ostler_control.ha.release import release_guard
from ostler_control.hosts.definitions import holds_firmware_alone, record_kept
from ostler_control.hosts.rows import address_of
from ostler_control.models import Host, Operation, Vm, tuples
from ostler_control.operations import Run, launch, record_operation, workflow
from ostler_control.states import UNFINISHED_OPERATIONS

log = structlog.get_logger(__name__)

VERB = "host.return"


def give_back(host_id: str) -> None:
    """Starts the operation that gives a host back, once nothing of it is in doubt and unless it is under way."""
    with transaction():
        if is_in_doubt(host_id):
            return
        mine = (Operation.verb == VERB) & (Operation.resource_id == host_id)
        if Operation.select().where(mine, Operation.state.in_(UNFINISHED_OPERATIONS)).exists():
            return
        operation = record_operation(VERB, Host.get_by_id(host_id), SYSTEM, {})
    launch(operation)


@workflow(VERB)
def _return(run: Run) -> None:
    """A definition that cannot be deleted now is no reason to keep the host: it runs nothing by itself."""
    try:
        for vm_id in run.always("list", lambda: _left_definitions(run)):
            if run.always(f"look-{vm_id}", partial(holds_firmware_alone, run, vm_id)):
                run.always(f"tell-{vm_id}", partial(_tell_kept, run, vm_id))
            else:
                run.always(f"undefine-{vm_id}", partial(_undefine, run, vm_id))
    except OstlerError as error:
        log.warning("a host that is back keeps definitions of VMs", host=run.resource_id, reason=error.message)
    run.always("release-guard", lambda: release_guard(run))
    run.always("take-back", lambda: take_back(run.resource_id))


def _left_definitions(run: Run) -> list[str]:
    """Ids of the VMs that are defined on the host and do not run there, although they are placed elsewhere or nowhere.
    While the host is fenced nothing is placed on it, so none of them is about to start there."""
    host = address_of(run.resource_id)
    answer = run.agents.call(host, lambda agent: agent.vms.ListVms, agent_pb2.ListVmsRequest())
    idle = [vm.vm_id for vm in answer.vms if vm.managed and not power_state(vm.power_state).is_executing]
    with session():
        elsewhere = Vm.host.is_null() | (Vm.host != run.resource_id)
        query = Vm.select(Vm.id).where(Vm.id.in_(idle), elsewhere).order_by(Vm.id)
        return [vm_id for (vm_id,) in tuples(query, tuple[str])]


def _undefine(run: Run, vm_id: str) -> None:
    request = agent_pb2.DeleteVmRequest(operation=run.ref(), vm_id=vm_id)
    run.job(address_of(run.resource_id), lambda agent: agent.vms.DeleteVm, request)


def _tell_kept(run: Run, vm_id: str) -> None:
    with session():
        vm = Vm.get_or_none(Vm.id == vm_id)
    if vm is not None:  # nobody has deleted it meanwhile
        record_kept(run, vm.id, vm.name, vm.host_id or "")
