"""Hosts that were proved off and come back, at awkward moments: no VM runs twice."""

from __future__ import annotations

import datetime
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from threading import Event, Thread

import pytest
from ostler.types.v1 import vm_pb2
from ostler.types.v1.job_pb2 import JobUpdate
from ostler_common.errors import OstlerError
from ostler_control import vms
from ostler_control.agents import HostAddress, reports
from ostler_control.database import transaction
from ostler_control.fleet import store, watch
from ostler_control.fleet.comparison import Comparison
from ostler_control.fleet.reconcile import HostView
from ostler_control.ha import devices, facts, priorities
from ostler_control.ha import ended as ended_module
from ostler_control.ha import returns as returns_module
from ostler_control.ha.ended import Ended, ended_vms
from ostler_control.ha.fence import fence
from ostler_control.ha.fence_agents import Device, Power
from ostler_control.ha.free import free_vms
from ostler_control.hosts import late_starts
from ostler_control.models import Event as EventRow
from ostler_control.models import (
    FenceState,
    Host,
    HostFence,
    HostSilence,
    HostState,
    LateStart,
    Operation,
    PowerState,
    Priority,
    Vm,
    VmSighting,
    VmState,
    now,
)
from ostler_control.operations import Engine, launch
from ostler_control.vms.rows import set_state

from tests.fakes.faults import Fault
from tests.fakes.fence import FakeDevice
from tests.fakes.working_agent import wait_until
from tests.sites import Site, outcome
from tests.unit.control.ha.place import OK, ON_BOTH, Clock, die, finish_all, host_of, new_device, prove_off, refused, vm


def watched(site: Site, name: str) -> store.WatchedHost:
    row = site.host(name)
    return store.WatchedHost(row.id, row.name, row.address, row.state)


def declare_dead(site: Site, engine: Engine, name: str) -> tuple[str, str]:
    return outcome(engine, site.record(lambda: fence(site.host(name), "root", device=False, automatic=False)))


def test_a_proof_does_not_revive_when_the_stream_of_a_returned_host_breaks(
    site: Site, engine: Engine, clock: Clock
) -> None:
    """An admin was wrong, and the host is heard again; then its agent restarts."""
    site.silence("h1")
    assert declare_dead(site, engine, "h1") == OK
    store.set_state(watched(site, "h1"), HostState.UP, "")
    with transaction():
        VmSighting.create(vm=vm("other"), host=site.host("h1"))
    store.set_state(watched(site, "h1"), HostState.CONNECTING, "Connection refused")
    clock.tick()
    finish_all(engine)
    assert VmSighting.select().count() == 1
    assert refused(lambda: vms.start(vm("other"), "alice")) == "RUNS_ELSEWHERE"


def test_a_returned_host_that_falls_silent_again_needs_a_new_proof(site: Site, engine: Engine, clock: Clock) -> None:
    site.silence("h1")
    assert declare_dead(site, engine, "h1") == OK
    with pytest.raises(OstlerError) as caught, transaction():
        fence(site.host("h1"), "root", device=False, automatic=False)
    assert caught.value.reason == "HOST_OFF"
    store.set_state(watched(site, "h1"), HostState.UP, "")
    with transaction():
        VmSighting.create(vm=vm("other"), host=site.host("h1"))
    assert declare_dead(site, engine, "h1") == OK
    clock.tick()
    assert not VmSighting.select().exists()


def test_a_new_proof_that_fails_leaves_the_old_one_without_effect(site: Site, engine: Engine) -> None:
    site.silence("h1")
    assert declare_dead(site, engine, "h1") == OK
    store.set_state(watched(site, "h1"), HostState.UP, "")
    site.hosts["h1"].start()
    assert declare_dead(site, engine, "h1") == ("failed", "HOST_ANSWERS")
    row = HostFence.get()
    assert (row.state, row.heard, site.host("h1").state) == (FenceState.OFF, True, HostState.FENCED)


def test_a_start_that_was_under_way_reaches_the_host_before_the_watcher_does(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    assert outcome(engine, site.record(lambda: vms.stop(vm("other"), "alice", 0))) == OK
    with transaction():
        starting = vms.start(vm("other"), "alice", host=site.host("h1"))
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    site.hosts["h1"].start()
    launch(starting)
    assert outcome(engine, starting) == OK
    clock.tick()
    finish_all(engine)
    assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1")


def tell(site: Site, name: str, state: HostState) -> None:
    """What the watcher says every few seconds."""
    store.set_state(watched(site, name), state, "")


def lose_again(site: Site, engine: Engine, clock: Clock) -> None:
    """h1 is proved off; the start of "other", protected, reaches it when it has returned; then it dies."""
    priorities.set_vm(vm("other"), Priority.HIGH, "root")
    assert outcome(engine, site.record(lambda: vms.stop(vm("other"), "alice", 0))) == OK
    with transaction():
        starting = vms.start(vm("other"), "alice", host=site.host("h1"))
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    site.hosts["h1"].start()
    launch(starting)
    assert outcome(engine, starting) == OK
    tell(site, "h1", HostState.UP)
    site.hosts["h1"].stop()
    tell(site, "h1", HostState.DISCONNECTED)
    clock.tick()


@ON_BOTH
def test_a_returned_host_that_dies_again_is_fenced_again_and_its_vms_start_elsewhere(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    lose_again(site, engine, clock)
    finish_all(engine)
    told = [row.message for row in EventRow.select().where(EventRow.type == "host.disconnected")]
    assert len(told) == 1
    assert "silent again before it was given back" in told[0]
    clock.tick(59)
    tell(site, "h1", HostState.DISCONNECTED)
    assert bmc.calls() == ["off", "status"]
    assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1"), "the old proof says nothing of it"
    site.hosts["h1"].vms.clear()
    clock.tick(2)
    finish_all(engine)
    assert bmc.calls() == ["off", "status"] * 2
    for _ in range(2):
        clock.tick()
        finish_all(engine)
    assert (vm("other").state, host_of("other") in ("h2", "h3")) == (VmState.RUNNING, True)
    for _ in range(4):
        clock.tick(600)
        finish_all(engine)
    assert bmc.calls() == ["off", "status"] * 2, "it was not heard since"
    site.check_whole()


def test_a_returned_host_that_is_heard_again_in_time_is_not_fenced(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    lose_again(site, engine, clock)
    for state in (HostState.UP, HostState.CONNECTING):
        clock.tick(59)
        tell(site, "h1", state)
        tell(site, "h1", HostState.DISCONNECTED)
        clock.tick(1)
    finish_all(engine)
    assert bmc.calls() == ["off", "status"]
    site.hosts["h1"].start()
    clock.tick(60)
    finish_all(engine)
    assert bmc.calls() == ["off", "status"], "it answers right before it would be switched off"
    assert "answers again" in HostFence.get().reason
    assert HostFence.get().attempts == 1
    tell(site, "h1", HostState.UP)
    compare(view(site, "h1"))
    clock.tick()
    wait_until(lambda: site.host("h1").state is HostState.UP)
    assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1")


def test_a_returned_host_that_is_silent_again_is_not_given_back(
    site: Site, engine: Engine, clock: Clock, returned: str
) -> None:
    Vm.update(power_state=PowerState.RUNNING).execute()
    tell(site, "h1", HostState.DISCONNECTED)
    clock.tick()
    finish_all(engine)
    assert site.host("h1").state is HostState.FENCED
    tell(site, "h1", HostState.UP)
    clock.tick()
    wait_until(lambda: site.host("h1").state is HostState.UP)


def view(site: Site, name: str) -> HostView:
    """What the watcher has of a host that has just reported its VMs."""
    fake = site.hosts[name]
    return HostView(fake.host_id, name, heard=True, vms={info.vm_id: watch.seen(info) for info in fake.vm_infos()})


def compare(heard: HostView) -> None:
    """A while after the last operation, for the host has told something."""
    Vm.update(state_time=now() - datetime.timedelta(hours=1)).execute()
    Comparison().write({heard.host_id}, {heard.host_id: heard})


@ON_BOTH
def test_a_vm_that_started_on_a_returned_host_is_not_freed_by_what_the_host_had_reported_before(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    """The watcher does not hear of the start: the host is cut off at once, or the watcher hangs."""
    assert outcome(engine, site.record(lambda: vms.stop(vm("other"), "alice", 0))) == OK
    with transaction():
        starting = vms.start(vm("other"), "alice", host=site.host("h1"))
    h1 = site.hosts["h1"]
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    before = view(site, "h1")
    h1.start()
    launch(starting)
    assert outcome(engine, starting) == OK
    for is_cut_off in (False, True):
        if is_cut_off:
            h1.stop()
        compare(before)
        assert vm("other").power_state is PowerState.ABSENT
        clock.tick()
        finish_all(engine)
        assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1")
        assert refused(lambda: vms.start(vm("other"), "alice")) == "HOST_SILENT", "it waits for its host"
        assert site.fleet.running_on(vm("other").id) == ["h1"]
    h1.start()
    h1.vms[vm("other").id].running = False
    compare(view(site, "h1"))
    clock.tick(5)  # it did not answer when it was asked last
    assert (vm("other").state, host_of("other")) == (VmState.STOPPED, "")
    assert outcome(engine, site.record(lambda: vms.start(vm("other"), "alice", host=site.host("h2")))) == OK
    finish_all(engine)
    assert site.fleet.running_on(vm("other").id) == ["h2"]


@pytest.mark.parametrize("was_tried", [True, False], ids=["tried before", "begun when the host was off"])
def test_a_vm_whose_start_reached_a_returned_host_that_was_cut_off_meanwhile_is_not_freed(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock, monkeypatch: pytest.MonkeyPatch, was_tried: bool
) -> None:
    broken, forget = Event(), engine.agents.forget

    def forget_broken(host: HostAddress) -> None:
        forget(host)
        broken.set()

    monkeypatch.setattr(engine.agents, "forget", forget_broken)
    assert outcome(engine, site.record(lambda: vms.stop(vm("other"), "alice", 0))) == OK
    with transaction():
        starting = vms.start(vm("other"), "alice", host=site.host("h1"))
    h1 = site.hosts["h1"]
    die(site, "h1")
    if was_tried:
        Host.update(state=HostState.UP).where(Host.name == "h1").execute()
        launch(starting)
        assert broken.wait(20)
        site.silence("h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    begun = h1.fail("StartVm", Fault(hold=Event()))
    if not was_tried:
        launch(starting)
    h1.start()
    assert begun.reached.wait(20)
    wait_until(lambda: HostFence.get().heard)
    h1.stop()
    assert begun.hold is not None
    begun.hold.set()
    assert outcome(engine, starting) == ("failed", "HOST_UNREACHABLE")
    clock.tick()
    finish_all(engine)
    assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1")
    assert site.fleet.running_on(vm("other").id) == ["h1"]
    die(site, "h1")
    assert declare_dead(site, engine, "h1") == OK
    assert (vm("other").state, host_of("other")) == (VmState.STOPPED, "")


@pytest.fixture
def returned(site: Site) -> str:
    """The id of h1, which was proved off and is heard; its VM "other" has stopped, as the watcher says."""
    host_id = prove_off(site, "h1", heard=True)
    site.hosts["h1"].vms[vm("other").id].running = False
    compare(view(site, "h1"))
    return host_id


def answered(engine: Engine, host_id: str) -> Ended:
    ended = ended_vms(engine.agents, [host_id])[host_id]
    assert ended is not None
    return ended


def test_a_returned_host_that_hangs_holds_up_nobody_and_is_asked_ever_more_seldom(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock, returned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ended_module, "_ASK_S", 0.5)
    hang, asked = Event(), []

    def never() -> list[vm_pb2.VmInfo]:
        asked.append(clock.now_s)
        hang.wait(30)
        return []

    monkeypatch.setattr(site.hosts["h1"], "vm_infos", never)
    created = site.record(partial(site.new_vm, "there", host=site.host("h2"), pool=site.pools["shared"]))
    assert outcome(engine, created) == OK
    other = replace(new_device(), device=replace(new_device().device, address="other.example.org"))
    devices.create(site.host("h2"), other, Power.ON, "root", site.keys)
    die(site, "h2")
    for _ in range(4):
        clock.now_s += 20
        clock.monitor.tick()
    finish_all(engine)
    assert (site.host("h2").state, asked) == (HostState.FENCED, []), "who fences calls no host that has returned"
    clock.monitor.tick()
    assert host_of("there") == "h3"
    begin_s = clock.now_s
    for _ in range(60):
        clock.now_s += 2
        clock.returns.tick()
    assert [time_s - begin_s for time_s in asked] == [2, 6, 14, 30, 62]
    assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1")
    hang.set()
    clock.now_s += 64
    clock.returns.tick()
    assert (vm("other").state, host_of("other")) == (VmState.STOPPED, "")


def test_a_returned_host_that_answers_each_question_slowly_holds_up_nobody_for_longer(
    site: Site, engine: Engine, returned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for each job that may have started a VM there."""
    monkeypatch.setattr(ended_module, "_ASK_S", 0.5)
    with transaction():
        for number in range(8):
            late_starts.note(vm("other").id, returned, f"job-{number}")
    jobs = site.hosts["h1"].life.jobs
    get = jobs.get

    def slowly(job_id: str) -> JobUpdate:
        time.sleep(0.3)
        return get(job_id)

    monkeypatch.setattr(jobs, "get", slowly)
    begin_s = time.monotonic()
    assert ended_vms(engine.agents, [returned]) == {returned: None}
    assert time.monotonic() - begin_s < 1.5


def test_a_start_that_ends_while_a_returned_host_is_about_to_be_asked_is_not_overlooked(
    site: Site, engine: Engine, returned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the host is asked of is read in two queries."""
    Vm.update(operation_id="starting").where(Vm.name == "other").execute()
    jobs = late_starts.jobs

    def before_its_end(host_ids: Collection[str]) -> dict[tuple[str, str], list[str]]:
        found = jobs(host_ids)
        late_starts.note(vm("other").id, returned, "the-start")
        Vm.update(operation_id="").where(Vm.name == "other").execute()
        return found

    monkeypatch.setattr(late_starts, "jobs", before_its_end)
    low = site.hosts["h1"].vms[vm("low").id]
    low.running = False
    Vm.update(power_state=PowerState.STOPPED).where(Vm.name == "low").execute()
    assert {vm_id for vm_id, _ in answered(engine, returned)} == {vm("low").id}


def test_a_bug_with_one_returned_host_does_not_hold_up_the_next(
    site: Site, engine: Engine, clock: Clock, returned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove_off(site, "h2", heard=True)
    broken: list[str] = []

    def stumble(host_id: str, ended: Ended) -> int:
        if not broken:
            broken.append(host_id)
        if host_id in broken:
            raise RuntimeError("a bug")
        return free_vms(host_id, ended)

    monkeypatch.setattr(returns_module, "free_vms", stumble)
    Vm.update(power_state=PowerState.RUNNING).execute()
    clock.returns.tick()
    finish_all(engine)
    states = {row.id: row.state for row in Host.select().where(Host.name.in_(["h1", "h2"]))}
    assert states.pop(broken[0]) is HostState.FENCED
    assert list(states.values()) == [HostState.UP]


@ON_BOTH
def test_two_replicas_that_find_a_returned_host_silent_at_once_tell_of_it_once(
    site: Site, engine: Engine, returned: str
) -> None:
    """As when one hands over to the next: an error would end the watch over the host."""
    host, begun = watched(site, "h1"), Event()

    def other() -> None:
        with transaction():
            store.set_state(host, HostState.DISCONNECTED, "")
            begun.set()
            time.sleep(0.5)

    thread = Thread(target=other)
    thread.start()
    assert begun.wait(20)
    store.set_state(host, HostState.DISCONNECTED, "")
    thread.join(20)
    assert EventRow.select().where(EventRow.type == "host.disconnected").count() == 1
    assert HostSilence.select().count() == 1


def test_what_a_returned_host_answered_before_a_vm_started_frees_nothing(
    site: Site, engine: Engine, returned: str
) -> None:
    ended = answered(engine, returned)
    assert {vm_id for vm_id, _ in ended} == {vm("other").id}
    set_state(vm("other").id, VmState.RUNNING, power_state=PowerState.STOPPED)  # it started, and an older report came
    assert free_vms(returned, ended) == 0
    assert free_vms(returned, answered(engine, returned)) == 1
    assert [host_of(name) for name in ("high", "low", "other")] == ["h1", "h1", ""]


def test_a_vm_that_a_returned_host_has_ended_is_none_that_may_have_started_there(
    site: Site, engine: Engine, clock: Clock, returned: str
) -> None:
    """Else the host would be fenced for its sake, and VMs that are not protected would end with it."""
    with transaction():
        for name in ("other", "low"):
            late_starts.note(vm(name).id, returned, f"start-of-{name}")
    assert free_vms(returned, answered(engine, returned)) == 1
    assert [row.job_id for row in LateStart.select()] == ["start-of-low"]


@pytest.mark.parametrize("state", ["RUNNING", "PAUSED", "UNSPECIFIED"])
def test_a_vm_that_a_returned_host_does_not_answer_to_be_off_is_not_freed(
    site: Site, engine: Engine, returned: str, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    info = vm_pb2.VmInfo(vm_id=vm("other").id, power_state=vm_pb2.PowerState.Value(f"POWER_STATE_{state}"))
    monkeypatch.setattr(site.hosts["h1"], "vm_infos", lambda: [info])
    assert free_vms(returned, answered(engine, returned)) == 0


def test_a_host_that_was_not_heard_since_it_was_proved_off_is_not_asked(
    site: Site, engine: Engine, returned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    HostFence.update(heard=False).execute()
    monkeypatch.setattr(site.hosts["h1"], "vm_infos", list)
    assert ended_vms(engine.agents, [returned]) == {}
    assert free_vms(returned) == 3


@ON_BOTH
def test_two_that_free_a_host_at_once_do_it_once(site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits, and reads what the first has left: by then a VM may run elsewhere."""
    site.silence("h1")
    host_id = prove_off(site, "h1", heard=False)
    of_vms, freed = priorities.of_vms, []
    second = Thread(target=lambda: freed.append(free_vms(host_id)))

    def meanwhile(ids: Sequence[str]) -> dict[str, Priority]:
        if not second.ident:
            second.start()
            second.join(0.5)
            assert second.is_alive(), "it has read the rows that the first is about to change"
        return of_vms(ids)

    monkeypatch.setattr(priorities, "of_vms", meanwhile)
    assert free_vms(host_id) == 3
    second.join(30)
    assert freed == [0]


def test_another_hosts_device_is_refused(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    with pytest.raises(OstlerError) as caught:
        devices.create(site.host("h2"), new_device(), Power.ON, "root", site.keys)
    assert caught.value.reason == "FENCE_DEVICE_TAKEN"
    by_ipmi = replace(new_device(), device=Device("ipmi", "bmc.example.org", "ostler", {}))
    with pytest.raises(OstlerError) as caught:  # it has no plug that would tell another machine
        devices.create(site.host("h2"), by_ipmi, Power.ON, "root", site.keys)
    assert caught.value.reason == "FENCE_DEVICE_TAKEN"
    for address in ("BMC.example.org:623", "bmc.example.org:443"):  # the same in other words
        agent = "ipmi" if address.endswith(":623") else "redfish"
        same = replace(new_device(), device=replace(new_device().device, agent=agent, address=address))
        with pytest.raises(OstlerError) as caught:
            devices.create(site.host("h2"), same, Power.ON, "root", site.keys)
        assert caught.value.reason == "FENCE_DEVICE_TAKEN"
    devices.delete(site.host("h1"), "root")
    with pytest.raises(OstlerError) as caught:
        devices.create(site.host("h2"), new_device(), Power.OFF, "root", site.keys)
    assert caught.value.reason == "WRONG_FENCE_DEVICE"


def test_a_dead_device_does_not_use_up_the_limit_of_its_cluster(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    bmc.fault("dead")
    site.silence("h1")
    for _ in range(3):
        operation = site.record(lambda: fence(site.host("h1"), "system", device=True, automatic=True))
        assert outcome(engine, operation)[0] == "failed"
    assert Operation.select().where(Operation.verb == facts.FENCE_VERB).count() == 3
    assert [rules.recent for rules in facts.rules().values()] == [{site.host("h1").id: 0}]


def test_a_vm_with_a_wrong_value_is_there_all_the_same() -> None:
    wrong = vm_pb2.VmInfo(vm_id="v", power_state=vm_pb2.POWER_STATE_RUNNING, cpus=-4, managed=True)
    [kept], complaint = reports.good_vms([wrong])
    assert (kept.vm_id, kept.power_state, kept.managed, kept.cpus) == ("v", vm_pb2.POWER_STATE_RUNNING, True, 0)
    assert "cpus is -4" in complaint


def test_a_fleet_without_silent_hosts_costs_one_query(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "hosts", lambda _: pytest.fail("the hosts were read"))
    assert clock.monitor.decisions() == []
