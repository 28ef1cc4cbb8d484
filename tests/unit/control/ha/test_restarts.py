"""Restarts that do not go smoothly: each VM runs once in the end, or an event says why it does not."""

from __future__ import annotations

import datetime
from threading import Event
from typing import Any

import pytest
from ostler_control.ha import facts, restart
from ostler_control.ha.fence import fence
from ostler_control.ha.restart import HANGS_S
from ostler_control.models import Event as EventRow
from ostler_control.models import FenceDevice, Host, Operation, PowerState, Vm, VmRestart, VmState, now
from ostler_control.operations import Engine
from peewee import OperationalError

from tests.fakes.fence import FakeDevice
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import GIB, Site, outcome
from tests.unit.control.ha.place import OK, Clock, die, finish_all, host_of, vm
from tests.unit.control.ha.test_returns import compare, view


@pytest.fixture
def lost(site: Site, engine: Engine, bmc: FakeDevice) -> Site:
    """h1 is proved off, and its protected VMs wait for their restart."""
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    assert VmRestart.select().count() == 2
    return site


def told(type: str) -> list[tuple[str, str]]:
    rows = EventRow.select().where(EventRow.type == type).order_by(EventRow.create_time)
    return [(row.resource_name, row.message) for row in rows]


def test_a_restart_of_which_nobody_knows_the_end_goes_on_where_it_was(lost: Site, engine: Engine, clock: Clock) -> None:
    """The host falls silent in the middle of the start, comes back, and does not run the VM."""
    VmRestart.delete().where(VmRestart.vm == vm("low").id).execute()
    hold = Event()
    begun = {name: lost.hosts[name].fail("StartVm", Fault(hold=hold)) for name in ("h2", "h3")}
    clock.tick()
    wait_until(lambda: any(fault.reached.is_set() for fault in begun.values()))
    [name] = [name for name, fault in begun.items() if fault.reached.is_set()]
    lost.silence(name)
    finish_all(engine)
    assert (vm("high").state, vm("high").power_state) == (VmState.RUNNING, PowerState.UNKNOWN)
    for _ in range(2):
        VmRestart.update(next_time=now()).execute()
        clock.tick()
    assert f"it may run on host {name} already" in VmRestart.get().reason
    [operation] = Operation.select().where(Operation.verb == "vm.start", Operation.resource_name == "high")
    for other in begun:
        lost.hosts[other].faults.clear()
    lost.hosts[name].life.jobs.cancel(f"{operation.id}.start")
    lost.revive(name)
    compare(view(lost, name))
    assert vm("high").power_state is PowerState.ABSENT
    VmRestart.update(next_time=now()).execute()
    clock.tick()
    finish_all(engine)
    clock.tick()
    assert (vm("high").state, host_of("high")) == (VmState.RUNNING, name)
    assert lost.fleet.running_on(vm("high").id) == [name]
    assert not VmRestart.select().exists()


def test_a_vm_whose_new_host_dies_just_after_its_restart_restarts_once_more(
    lost: Site, engine: Engine, clock: Clock
) -> None:
    """Nobody has looked yet how the first restart ended."""
    clock.tick()
    finish_all(engine)
    name = host_of("high")
    assert vm("high").state is VmState.RUNNING
    die(lost, name)
    declared = lost.record(lambda: fence(lost.host(name), "root", device=False, automatic=False))
    assert outcome(engine, declared) == OK
    assert vm("high").state is VmState.STOPPED
    for _ in range(2):
        clock.tick()
        finish_all(engine)
    assert (vm("high").state, host_of("high") in ("h2", "h3")) == (VmState.RUNNING, True)
    assert lost.fleet.running_on(vm("high").id) == [host_of("high")]


def test_a_start_that_hangs_is_cancelled_and_an_event_says_so(lost: Site, engine: Engine, clock: Clock) -> None:
    VmRestart.delete().where(VmRestart.vm == vm("low").id).execute()
    for name in ("h2", "h3"):
        lost.hosts[name].fail("StartVm", Fault(hold=Event()))
    clock.tick()
    wait_until(lambda: "StartVm" in [*lost.hosts["h2"].calls[-1:], *lost.hosts["h3"].calls[-1:]])
    clock.tick()
    clock.tick(HANGS_S - 1)
    assert (vm("high").state, told("vm.restart.hangs")) == (VmState.STARTING, [])
    clock.tick(1)
    [(name, text)] = told("vm.restart.hangs")
    assert (name, "longer than 10 minutes" in text) == ("high", True)
    clock.tick(1000)
    assert len(told("vm.restart.hangs")) == 1
    finish_all(engine)
    assert vm("high").state is VmState.STOPPED
    for host in lost.hosts.values():
        host.faults.clear()
    for _ in range(3):
        VmRestart.update(next_time=now()).execute()
        clock.tick()
        finish_all(engine)
    assert (vm("high").state, lost.fleet.running_on(vm("high").id)) == (VmState.RUNNING, [host_of("high")])


def test_an_event_tells_of_a_vm_that_finds_no_place(lost: Site, engine: Engine, clock: Clock) -> None:
    Host.update(memory_bytes=GIB // 8).execute()
    for _ in range(3):
        VmRestart.update(next_time=now()).execute()
        clock.tick()
    messages = dict(told("vm.restart.wait"))
    assert len(told("vm.restart.wait")) == 2
    assert set(messages) == {"high", "low"}
    assert "lack memory" in messages["high"]


def test_a_bug_with_one_vm_does_not_hold_up_the_next(
    lost: Site, engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = vars(restart)["start"]

    def stumble(row: Vm, *args: Any, **named: Any) -> Operation:
        if row.name == "high":
            raise RuntimeError("a bug")
        operation: Operation = start(row, *args, **named)
        return operation

    monkeypatch.setattr(restart, "start", stumble)
    clock.tick()
    finish_all(engine)
    clock.tick()
    assert (vm("high").state, vm("low").state) == (VmState.STOPPED, VmState.RUNNING)
    [row] = VmRestart.select()
    assert (row.vm.name, "bug" in row.reason) == ("high", True)


def test_a_clock_that_was_put_back_does_not_hold_up_restarts_or_fencings(
    lost: Site, engine: Engine, clock: Clock
) -> None:
    VmRestart.update(next_time=now() + datetime.timedelta(days=1)).execute()
    clock.tick()
    finish_all(engine)
    clock.tick()
    assert {host_of("high"), host_of("low")} <= {"h2", "h3"}
    Operation.update(user="system").where(Operation.verb == facts.FENCE_VERB).execute()
    assert [len(rules.recent) for rules in facts.rules().values()] == [1]
    later = now() + datetime.timedelta(days=1)
    Operation.update(create_time=later).where(Operation.verb == facts.FENCE_VERB).execute()
    assert [len(rules.recent) for rules in facts.rules().values()] == [0]


def test_an_event_tells_why_a_silent_host_is_not_fenced(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    site.silence("h1")
    FenceDevice.delete().execute()
    for after_s in (0, 59, 1, 30):
        clock.tick(after_s)
        assert len(told("host.fence.held")) == (after_s in (1, 30))
    assert "has neither a fence device" in told("host.fence.held")[0][1]
    site.silence("h2")
    clock.tick(2)
    assert [text.partition(": ")[2] for _, text in told("host.fence.held")][1:] == [], "nothing else holds it up"
    site.revive("h1")
    site.revive("h2")
    clock.tick(2)
    site.silence("h1")
    clock.tick(2)
    clock.tick(60)
    assert len(told("host.fence.held")) == 2, "one for each silence"


def test_a_start_that_hangs_while_the_database_is_away_is_cancelled_later(
    lost: Site, engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    VmRestart.delete().where(VmRestart.vm == vm("low").id).execute()
    for name in ("h2", "h3"):
        lost.hosts[name].fail("StartVm", Fault(hold=Event()))
    clock.tick()
    wait_until(lambda: "StartVm" in [*lost.hosts["h2"].calls[-1:], *lost.hosts["h3"].calls[-1:]])
    clock.tick()

    def away(operation_id: str) -> None:
        raise OperationalError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(restart, "request_cancel", away)
        with pytest.raises(OperationalError):
            clock.tick(HANGS_S)
    clock.tick(2)
    assert len(told("vm.restart.hangs")) == 1
    finish_all(engine)
    assert vm("high").state is VmState.STOPPED
