"""Fencing a host: proving that it runs no VM any more, by switching it off, by its lease, or by an admin's word.

The operation is journaled. Killed at any line it goes on from the last finished step: switching off and asking are
repeated without harm, and whether the host is still silent is asked again right before every switching off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ostler.agent.v1 import host_pb2 as agent_pb
from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError
from peewee import IntegrityError

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.ha import devices, facts, run_agent
from ostler_control.ha.decide import too_many_silent
from ostler_control.ha.fence_agents import Action, Power
from ostler_control.ha.free import free_vms
from ostler_control.ha.self_fence import watch_lease
from ostler_control.hosts.rows import address
from ostler_control.models import (
    FenceDevice,
    FenceState,
    Host,
    HostFence,
    HostSilence,
    HostState,
    LateStart,
    Operation,
    now,
    tuples,
)
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.states import UNFINISHED_OPERATIONS

_ASK_S = 5.0
_REASONS = {
    "device": "it was switched off by its fence device",
    "lease": "it did not renew its lease, so its guardian has ended its VMs",
    "admin": "an admin declared it dead",
}


@dataclass(frozen=True)
class FenceInputs:
    """device: the host's fence device proves it; lease: its lease does; neither: the admin who declares it dead.
    automatic: no admin asked."""

    device: bool
    automatic: bool
    lease: bool = False


def fence(host: Host, actor: str, *, device: bool, automatic: bool, lease: bool = False) -> Operation:
    """Records the operation that fences a silent host, within the caller's transaction. From now on nothing is placed
    on the host and nothing starts there.

    A host that was proved off and was heard since, or may have got a start since, needs a new proof: the old one says
    nothing of the VMs that it runs.
    Raises FailedPreconditionError HOST_UP, HOST_OFF when it is proved off already, AbortedError RESOURCE_BUSY while
    it is being fenced.
    """
    operation = record_operation(facts.FENCE_VERB, host, actor, FenceInputs(device, automatic, lease))
    before = HostFence.get_or_none(HostFence.host == host.id)
    late = LateStart.select(LateStart.host).where(LateStart.host == host.id)
    if before is not None and before.state is FenceState.OFF and not (before.heard or late.exists()):
        raise FailedPreconditionError(
            f"host {host.name} is proved off already; its VMs may start elsewhere", "HOST_OFF", {"host": host.name}
        )
    again = before is not None and before.state is FenceState.OFF
    fresh = Host.get_by_id(host.id)
    silent = Host.state.in_((HostState.CONNECTING, HostState.DISCONNECTED, *((HostState.FENCED,) if again else ())))
    changes = {"state": HostState.FENCED, "state_time": now(), "state_reason": "it is being fenced"}
    if before is not None and before.state is FenceState.FENCING:
        raise _being_fenced(host)
    if Host.update(**changes).where(Host.id == host.id, silent).execute() != 1:
        raise FailedPreconditionError(
            f"host {host.name} is up, so it is not dead; put it into maintenance to take it out of service",
            "HOST_UP",
            {"host": host.name},
        )
    if not again:  # it goes on, and its state does not tell it any more
        HostSilence.delete().where(HostSilence.host == host.id).execute()
        if fresh.state is HostState.DISCONNECTED:
            HostSilence.create(host=host.id, time=fresh.state_time)
    values = {"state": FenceState.FENCING, "state_time": now(), "operation_id": operation.id, "heard": False}
    doubtful = HostFence.heard | HostFence.host.in_(late)
    renewable = (HostFence.state == FenceState.FAILED) | ((HostFence.state == FenceState.OFF) & doubtful)
    try:
        if before is None:
            HostFence.create(host=host, **values)
        elif HostFence.update(**values).where((HostFence.host == host.id) & renewable).execute() != 1:
            raise _being_fenced(host)
    except IntegrityError:
        raise _being_fenced(host) from None
    return operation


def _being_fenced(host: Host) -> AbortedError:
    return AbortedError(f"host {host.name} is being fenced already", "RESOURCE_BUSY", {"host": host.name})


@workflow(facts.FENCE_VERB)
def _fence(run: Run) -> None:
    inputs = run.read(FenceInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        if inputs.device:
            run.step("power-off", lambda: _power_off(run, inputs))
            covered = run.step("verify-off", lambda: _verify_off(run))
        elif inputs.lease:
            covered = run.step("watch-lease", lambda: _watch_lease(run, inputs))
        else:
            covered = run.step("check-silent", lambda: _check_word(run, inputs))
        run.always("record-off", lambda: _record_off(run, _proof(inputs), covered or ()))
        undo.clear()
    run.always("free", lambda: free_vms(run.resource_id))
    if inputs.device:
        run.always("power-on", lambda: _power_on(run))


def _power_off(run: Run, inputs: FenceInputs) -> None:
    """Asks the host once more, then switches it off: one step, so that after a crash it asks again."""
    run.phase("asking the host once more", 10)
    _check_silent(run, inputs)
    run.phase("switching it off", 20)
    row = _device(run)
    run_agent.switch(devices.device(row), run.keys.open(row), Action.OFF)
    with transaction():  # whatever was heard before the power was cut counts no more; what is heard from now on does
        HostFence.update(heard=False).where(HostFence.operation_id == run.id).execute()


def _check_silent(run: Run, inputs: FenceInputs) -> None:
    """Raises FailedPreconditionError HOST_ANSWERS, or TOO_MANY_SILENT when nobody asked for it and the control plane
    may be cut off itself."""
    with session():
        host = Host.get_by_id(run.resource_id)
        crowded = too_many_silent(facts.hosts({})) if inputs.automatic else frozenset()
    if host.cluster_id in crowded:
        raise FailedPreconditionError(
            "more than half of the hosts do not answer, so that the control plane itself may be cut off",
            "TOO_MANY_SILENT",
        )
    run.agents.forget(address(host))  # a channel that has failed lately says so again without trying
    try:
        run.agents.call(address(host), lambda agent: agent.host.GetHost, agent_pb.GetHostRequest(), _ASK_S)
    except OstlerError as error:
        if error.reason == "HOST_UNREACHABLE":
            return
    raise FailedPreconditionError(
        f"host {host.name} answers again: it is not fenced", "HOST_ANSWERS", {"host": host.name}
    )


def _begin_proof(run: Run) -> list[str]:
    """Ids of the late starts that a proof which begins now covers."""
    with session():
        query = LateStart.select(LateStart.id).where(LateStart.host == run.resource_id).order_by(LateStart.id)
        return [row_id for (row_id,) in tuples(query, tuple[str])]


def _check_word(run: Run, inputs: FenceInputs) -> list[str]:
    """What an admin says is of the time before the host is asked."""
    covered = _begin_proof(run)
    _check_silent(run, inputs)
    return covered


def _verify_off(run: Run) -> list[str]:
    """Raises FailedPreconditionError NOT_OFF unless the device says in so many words that the host is off."""
    run.phase("asking whether it is off", 60)
    row, covered = _device(run), _begin_proof(run)
    if run_agent.ask_power(devices.device(row), run.keys.open(row)) is not Power.OFF:
        raise FailedPreconditionError(
            f"the fence device at {row.address} says that host {row.name} is on, although it was switched off",
            "NOT_OFF",
        )
    return covered


def _watch_lease(run: Run, inputs: FenceInputs) -> list[str]:
    """One step: after a crash the lease is watched anew."""
    run.phase("asking the host once more", 10)
    covered = _begin_proof(run)
    _check_silent(run, inputs)
    watch_lease(run, lambda: _check_silent(run, inputs))
    return covered


def _proof(inputs: FenceInputs) -> str:
    return "device" if inputs.device else "lease" if inputs.lease else "admin"


def _device(run: Run) -> FenceDevice:
    with session():
        row = devices.of_host(Host.get_by_id(run.resource_id))
        assert row.name  # reads the host while there is a session
        return row


def _record_off(run: Run, proof: str, covered: Sequence[str]) -> None:
    with transaction():
        LateStart.delete().where(LateStart.id.in_(list(covered))).execute()
        values = {"state": FenceState.OFF, "state_time": now(), "proof": proof, "attempts": 0, "reason": ""}
        HostFence.update(**values).where(HostFence.operation_id == run.id).execute()
        Host.update(state_reason=_REASONS[proof]).where(Host.id == run.resource_id).execute()


def _record_failure(run: Run, undo: Undo) -> None:
    with transaction():
        _fail(HostFence.operation_id == run.id, str(undo.error))


def _fail(condition: object, reason: str) -> None:
    """The host may be used again if it returns: none of its VMs was taken off it. One that was proved off before stays
    so, and counts as heard: its VMs stay where they are until it is given back or proved off anew."""
    for row in HostFence.select().where(condition, HostFence.state == FenceState.FENCING):
        if row.proof:
            values = {
                "state": FenceState.OFF, "state_time": now(), "heard": True,
                "attempts": row.attempts + 1, "reason": reason,
            }  # fmt: skip
            HostFence.update(**values).where(HostFence.id == row.id).execute()
            continue
        values = {"state": FenceState.FAILED, "state_time": now(), "attempts": row.attempts + 1, "reason": reason}
        HostFence.update(**values).where(HostFence.id == row.id).execute()
        state = HostState.UP if row.heard else HostState.DISCONNECTED
        HostSilence.delete().where(HostSilence.host == row.host_id).execute()
        # A later fencing begins after these.
        LateStart.delete().where(LateStart.host == row.host_id).execute()
        Host.update(state=state, state_time=now(), state_reason=f"not fenced: {reason}").where(
            Host.id == row.host_id, Host.state == HostState.FENCED
        ).execute()


def _power_on(run: Run) -> None:
    """Switches the host on again if that is wanted. A failure is an event and no more: the VMs are safe elsewhere."""
    with session():
        row = FenceDevice.get_or_none(FenceDevice.host == run.resource_id)
        if row is None or not row.power_on:
            return
        host_name = row.name
    run.phase("switching it on again", 90)
    try:
        run_agent.switch(devices.device(row), run.keys.open(row), Action.ON)
    except OstlerError as error:
        with transaction():
            events.record(
                "host.power-on", events.Outcome.FAILED, run.user, "host", run.resource_id, host_name, error.message
            )


def tidy() -> None:
    """Ends fencings whose operation is over without having said so, as by a bug, and forgets failed ones of hosts
    that are heard again."""
    with transaction():
        unfinished = Operation.select(Operation.id).where(Operation.state.in_(UNFINISHED_OPERATIONS))
        _fail(HostFence.operation_id.not_in(unfinished), "the operation ended early")
        up = Host.select(Host.id).where(Host.state == HostState.UP)
        HostFence.delete().where(HostFence.state == FenceState.FAILED, HostFence.host.in_(up)).execute()
