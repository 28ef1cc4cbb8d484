"""Switching hosts off to save power, and on again, by their fence devices.

Only a host in maintenance that has no VM and no job of this process is switched off. What another replica has begun
there ends as when a host dies. Both operations may be repeated at any line.
"""

from __future__ import annotations

import datetime

from ostler_common.errors import AbortedError, FailedPreconditionError, UnavailableError

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.ha import devices, run_agent
from ostler_control.ha.fence_agents import Action, Power
from ostler_control.hosts import manage
from ostler_control.models import Host, HostFence, HostPower, HostState, Operation, SwitchState, UnmanagedVm, Vm, now
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.states import UNFINISHED_OPERATIONS, PowerState

OFF_VERB, ON_VERB = "host.power-off", "host.power-on"
# A server's firmware may take minutes before the system starts.
HEARD_WITHIN = datetime.timedelta(minutes=15)
_ASK_S = 2.0


def power_off(host: Host, actor: str) -> Operation:
    """Records the operation that switches a host off, within the caller's transaction.

    Raises NotFoundError FENCE_NOT_FOUND; FailedPreconditionError NOT_IN_MAINTENANCE, HOST_HAS_VMS, HOST_NOT_UP;
    AbortedError RESOURCE_BUSY while it is being switched.
    """
    devices.of_host(host)
    _check_idle(host)
    if host.state is not HostState.UP or HostFence.select().where(HostFence.host == host.id).exists():
        raise FailedPreconditionError(
            f"host {host.name} is {host.state}: only one that is up is switched off", "HOST_NOT_UP", {"host": host.name}
        )
    operation = record_operation(OFF_VERB, host, actor, {})
    _enter(host, SwitchState.SWITCHING_OFF, operation, (SwitchState.EMPTYING,))
    return operation


def power_on(host: Host, actor: str) -> Operation:
    """Records the operation that switches a host on, within the caller's transaction.

    Raises NotFoundError FENCE_NOT_FOUND; FailedPreconditionError HOST_UP; AbortedError RESOURCE_BUSY while it is being
    switched or fenced.
    """
    devices.of_host(host)
    # One that is recorded as off, and is up all the same, is switched on too: that ends the record.
    if host.state is HostState.UP and not HostPower.select().where(HostPower.host == host.id).exists():
        raise FailedPreconditionError(f"host {host.name} is up", "HOST_UP", {"host": host.name})
    if HostFence.select().where(HostFence.host == host.id).exists():
        raise AbortedError(f"host {host.name} is fenced", "RESOURCE_BUSY", {"host": host.name})
    operation = record_operation(ON_VERB, host, actor, {})
    _enter(host, SwitchState.SWITCHING_ON, operation, (SwitchState.OFF,))
    return operation


def _enter(host: Host, state: SwitchState, operation: Operation, before: tuple[SwitchState, ...]) -> None:
    values = {"state": state, "state_time": now(), "operation_id": operation.id}
    row = HostPower.get_or_none(HostPower.host == host.id)
    if row is None:
        HostPower.create(host=host, **values)
    elif HostPower.update(**values).where(HostPower.id == row.id, HostPower.state.in_(list(before))).execute() != 1:
        raise AbortedError(f"host {host.name} is {row.state.replace('_', ' ')}", "RESOURCE_BUSY", {"host": host.name})


def _check_idle(host: Host) -> None:
    """Raises FailedPreconditionError NOT_IN_MAINTENANCE, HOST_HAS_VMS."""
    if not host.maintenance:
        raise FailedPreconditionError(
            f"host {host.name} is not in maintenance, so VMs may come any moment "
            f"(ostler host maintenance enter {host.name})",
            "NOT_IN_MAINTENANCE",
            {"host": host.name},
        )
    placed = Vm.select(Vm.name).where((Vm.host == host.id) | (Vm.destination == host.id)).order_by(Vm.name)
    running = (UnmanagedVm.host == host.id) & UnmanagedVm.power_state.in_((PowerState.RUNNING, PowerState.PAUSED))
    names = [row.name for row in placed.limit(5)] + [row.name for row in UnmanagedVm.select().where(running).limit(5)]
    if names:
        raise FailedPreconditionError(
            f"VMs are on host {host.name}: {', '.join(names)} (migrate or stop them)",
            "HOST_HAS_VMS",
            {"host": host.name},
        )


@workflow(OFF_VERB)
def _off(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("as-it-is", lambda: _as_it_is(run))
        run.step("power-off", lambda: _cut(run))
        run.step("verify-off", lambda: _verify_off(run))
        undo.clear()
    run.always("record-off", lambda: _record_off(run))


def _cut(run: Run) -> None:
    with transaction():
        host = Host.get_by_id(run.resource_id)
        # The row is held from here to the end of the transaction, and its maintenance cannot end before it is on again.
        Host.update(state_reason="it is being switched off to save power").where(Host.id == host.id).execute()
        _check_idle(host)
        row = devices.of_host(host)
    if jobs := run.agents.busy(host.id):
        raise AbortedError(f"{jobs} jobs run on host {host.name}: wait for them", "HOST_BUSY", {"host": host.name})
    run.phase("switching it off", 20)
    run_agent.switch(devices.device(row), run.keys.open(row), Action.OFF)


def _verify_off(run: Run) -> None:
    """Raises FailedPreconditionError NOT_OFF. A device that does not answer now has said just before that it is off."""
    if _power(run) is Power.ON:
        with session():
            host = Host.get_by_id(run.resource_id)
        raise FailedPreconditionError(
            f"the fence device of host {host.name} says that it is on, although it was switched off", "NOT_OFF"
        )


def _power(run: Run) -> Power:
    """What the host's fence device says; UNKNOWN if it does not answer."""
    with session():
        row = devices.of_host(Host.get_by_id(run.resource_id))
    try:
        return run_agent.ask_power(devices.device(row), run.keys.open(row))
    except UnavailableError:
        return Power.UNKNOWN


def _record_off(run: Run) -> None:
    with transaction():
        values = {"state": SwitchState.OFF, "state_time": now()}
        HostPower.update(**values).where(HostPower.operation_id == run.id).execute()
        Host.update(state_reason="it is switched off to save power").where(Host.id == run.resource_id).execute()


def _as_it_is(run: Run) -> None:
    """After a failure: a host that is off all the same is recorded as off; any other stays on."""
    if _power(run) is Power.OFF:
        _record_off(run)
        return
    with transaction():
        _end(run.resource_id, run.id, run.user)


def _end(host_id: str, operation_id: str, actor: str) -> None:
    """Forgets that a host was to be off, and ends its maintenance if nobody asked for that."""
    row = HostPower.get_or_none(HostPower.host == host_id, HostPower.operation_id == operation_id)
    if row is None:
        return
    HostPower.delete().where(HostPower.id == row.id).execute()
    if row.automatic:
        manage.set_maintenance(Host.get_by_id(host_id), False, "", actor)


@workflow(ON_VERB)
def _on(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("off-again", lambda: _still_off(run))
        run.step("power-on", lambda: _switch_on(run))
        run.step("wait", lambda: _wait(run))
        undo.clear()
    run.always("record-on", lambda: _record_on(run))


def _switch_on(run: Run) -> None:
    with session():
        row = devices.of_host(Host.get_by_id(run.resource_id))
    run.phase("switching it on", 10)
    run_agent.switch(devices.device(row), run.keys.open(row), Action.ON)


def _wait(run: Run) -> None:
    """Raises FailedPreconditionError HOST_NOT_HEARD."""
    run.phase("waiting for its agent", 40)
    with session():
        row = HostPower.get(HostPower.operation_id == run.id)
    until = row.state_time + HEARD_WITHIN
    while True:
        with session():
            host = Host.get_by_id(run.resource_id)
        if host.state is HostState.UP:
            return
        if now() > until:
            raise FailedPreconditionError(
                f"host {host.name} was switched on, but its agent was not heard within "
                f"{HEARD_WITHIN.total_seconds() / 60:g} minutes (look at its console)",
                "HOST_NOT_HEARD",
                {"host": host.name},
            )
        run.pause(_ASK_S)


def _record_on(run: Run) -> None:
    with transaction():
        _end(run.resource_id, run.id, run.user)


def _still_off(run: Run) -> None:
    with transaction():
        values = {"state": SwitchState.OFF, "state_time": now()}
        HostPower.update(**values).where(HostPower.operation_id == run.id).execute()


def tidy() -> None:
    """Ends switchings whose operation is over without having said so, as by a bug, and those of hosts that are up again
    by themselves, as after their button was pressed."""
    with transaction():
        up = (
            HostPower.select()
            .join(Host)
            .where(
                HostPower.state == SwitchState.OFF, Host.state == HostState.UP, Host.state_time > HostPower.state_time
            )
        )
        for row in list(up):
            _end(row.host_id, row.operation_id, events.SYSTEM)
        unfinished = Operation.select(Operation.id).where(Operation.state.in_(UNFINISHED_OPERATIONS))
        over = HostPower.operation_id.not_in(unfinished)
        for row in HostPower.select().where(over, HostPower.state == SwitchState.SWITCHING_OFF):
            _end(row.host_id, row.operation_id, events.SYSTEM)
        back = {"state": SwitchState.OFF, "state_time": now()}
        HostPower.update(**back).where(over, HostPower.state == SwitchState.SWITCHING_ON).execute()
