"""Starts and arrivals on a fenced host that may be later than the proof that it was off: the proof frees no such VM."""

from __future__ import annotations

import importlib
from functools import partial
from threading import Event

import pytest
from ostler_common.errors import InternalError
from ostler_common.secret import Secret
from ostler_control import vms
from ostler_control.agents import HostAddress
from ostler_control.database import transaction
from ostler_control.ha import priorities, run_agent
from ostler_control.ha.fence import fence
from ostler_control.ha.fence_agents import Device, Power
from ostler_control.ha.free import free_vms
from ostler_control.hosts import late_starts
from ostler_control.hosts.rows import is_proved_off
from ostler_control.models import (
    Host,
    HostFence,
    HostState,
    LateStart,
    Operation,
    PowerState,
    Priority,
    Vm,
    VmState,
    now,
)
from ostler_control.operations import Engine, launch
from ostler_control.vms import on_host
from ostler_control.vms.resolve import resolve_stranded

from tests.fakes.faults import Fault
from tests.fakes.fence import FakeDevice
from tests.fakes.working_agent import wait_until
from tests.sites import Site, outcome
from tests.unit.control.ha.place import OK, ON_BOTH, Clock, die, finish_all, host_of, prove_off, refused, vm
from tests.unit.control.ha.test_returns import compare, tell, view


def start_of_other(site: Site, engine: Engine) -> Operation:
    """The recorded start of "other" on h1, which nobody works on yet."""
    assert outcome(engine, site.record(lambda: vms.stop(vm("other"), "alice", 0))) == OK
    with transaction():
        return vms.start(vm("other"), "alice", host=site.host("h1"))


def start_unheard(site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch, hold: Event) -> Operation:
    """A start of "other" reaches h1 after its proof, and h1 is cut off before it has answered anything."""
    monkeypatch.setattr(on_host, "record_heard", lambda host_id: None)  # the answer is lost
    starting = start_of_other(site, engine)
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    begun = site.hosts["h1"].fail("StartVm", Fault(hold=hold))
    launch(starting)
    site.hosts["h1"].start()
    assert begun.reached.wait(20)
    site.hosts["h1"].stop()
    return starting


@ON_BOTH
def test_an_old_proof_does_not_free_a_vm_whose_start_came_later_and_was_never_answered(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = Event()
    starting = start_unheard(site, engine, monkeypatch, hold)
    hold.set()
    assert outcome(engine, starting) == ("failed", "HOST_UNREACHABLE")
    assert not HostFence.get().heard
    clock.tick()
    finish_all(engine)
    assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1")
    assert refused(lambda: vms.delete(vm("other"), "alice", force=True)) == "HOST_SILENT", "its disk may be in use"
    assert site.fleet.running_on(vm("other").id) == ["h1"]
    assert [host_of(name) in ("h2", "h3") for name in ("high", "low")] == [True, True], "the proof is right for these"
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    assert (vm("other").state, host_of("other")) == (VmState.STOPPED, "")
    assert not LateStart.select().exists()
    site.check_whole()


def test_a_protected_vm_whose_start_may_be_late_gets_a_new_proof_at_once_and_uses_no_limit(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host was silent all the time, and was not heard since it was proved off."""
    priorities.set_vm(vm("other"), Priority.HIGH, "root")
    starting = start_of_other(site, engine)
    clock.tick()
    die(site, "h1")
    clock.tick()
    launch(starting)
    clock.tick(61)
    finish_all(engine)
    tell(site, "h1", HostState.DISCONNECTED)
    assert bmc.calls() == ["off", "status"]
    assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1")
    Operation.update(user="system").where(Operation.verb == "host.fence").execute()
    for _ in range(3):
        clock.tick()
        finish_all(engine)
    assert bmc.calls() == ["off", "status"] * 2
    assert (vm("other").state, host_of("other") in ("h2", "h3")) == (VmState.RUNNING, True)
    site.check_whole()


@ON_BOTH
def test_the_record_of_a_start_that_comes_after_the_proof_takes_nothing_from_the_others(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start had succeeded before the host died; its row is written when the host is proved off."""
    note = late_starts.note

    def later(vm_id: str, host_id: str, job_id: str) -> None:
        monkeypatch.setattr(late_starts, "note", note)
        prove_off(site, "h1")
        note(vm_id, host_id, job_id)

    monkeypatch.setattr(late_starts, "note", later)
    starting = start_of_other(site, engine)
    launch(starting)
    assert outcome(engine, starting) == OK
    die(site, "h1")
    assert HostFence.get().heard is False
    clock.tick()
    finish_all(engine)
    assert [host_of(name) in ("h2", "h3") for name in ("high", "low")] == [True, True]
    assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1"), "perhaps it was started since"
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    assert (vm("other").state, host_of("other")) == (VmState.STOPPED, "")


def test_a_start_that_hangs_on_a_returned_host_is_no_end(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is heard again, says that the VM does not run, and libvirt may start it any moment."""
    hold = Event()
    starting = start_unheard(site, engine, monkeypatch, hold)
    assert outcome(engine, starting) == ("failed", "HOST_UNREACHABLE")
    site.hosts["h1"].start()
    tell(site, "h1", HostState.UP)
    compare(view(site, "h1"))
    assert vm("other").power_state is PowerState.ABSENT
    clock.tick()
    assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1")
    hold.set()
    finish_job(site, starting)
    compare(view(site, "h1"))
    clock.tick(5)
    finish_all(engine)
    assert (vm("other").state, vm("other").power_state, host_of("other")) == (VmState.RUNNING, "running", "h1")
    assert site.host("h1").state is HostState.UP
    assert not LateStart.select().exists()
    site.check_whole()


def test_a_proof_covers_no_start_that_is_noted_again_after_it_began(
    site: Site, engine: Engine, bmc: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is noted when it is tried, and once more when it ends."""
    die(site, "h1")
    with transaction():
        proving = fence(site.host("h1"), "root", device=True, automatic=False)
        late_starts.note(vm("other").id, site.host("h1").id, "the-start")
    ask_power = run_agent.ask_power

    def meanwhile(device: Device, password: Secret) -> Power:
        power = ask_power(device, password)
        with transaction():
            late_starts.note(vm("other").id, site.host("h1").id, "the-start")
        return power

    monkeypatch.setattr(run_agent, "ask_power", meanwhile)
    launch(proving)
    assert outcome(engine, proving) == OK
    assert [row.job_id for row in LateStart.select()] == ["the-start"]
    assert (vm("other").state, host_of("other")) == (VmState.RUNNING, "h1"), "perhaps it was started since"


def test_a_fencing_that_fails_forgets_what_started_meanwhile(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    """The next fencing begins after that, and covers it."""
    bmc.fault("dead")
    site.silence("h1")
    with transaction():
        proving = fence(site.host("h1"), "root", device=True, automatic=False)
        late_starts.note(vm("other").id, site.host("h1").id, "the-start")
    launch(proving)
    assert outcome(engine, proving) == ("failed", "FENCE_FAILED")
    assert not LateStart.select().exists()


def test_a_fencing_anew_that_fails_keeps_what_the_old_proof_does_not_cover(
    site: Site, engine: Engine, bmc: FakeDevice
) -> None:
    die(site, "h1")
    prove_off(site, "h1")
    bmc.fault("dead")
    with transaction():
        late_starts.note(vm("other").id, site.host("h1").id, "the-start")
        proving = fence(site.host("h1"), "root", device=True, automatic=False)
    launch(proving)
    assert outcome(engine, proving) == ("failed", "FENCE_FAILED")
    assert [row.job_id for row in LateStart.select()] == ["the-start"]


def finish_job(site: Site, starting: Operation) -> None:
    for _ in site.hosts["h1"].life.jobs.watch(f"{starting.id}.start"):
        pass


def test_a_migration_to_a_host_that_was_fenced_meanwhile_does_not_begin(
    site: Site, engine: Engine, bmc: FakeDevice
) -> None:
    with transaction():
        moving = vms.migrate(vm("high"), "alice", host=site.host("h2"))
    prove_off(site, "h2")
    launch(moving)
    assert outcome(engine, moving) == ("failed", "HOST_SILENT")
    assert (vm("high").state, host_of("high")) == (VmState.RUNNING, "h1")
    assert "PrepareMigration" not in site.hosts["h2"].calls


def test_a_vm_that_may_have_arrived_after_the_proof_is_not_taken_for_dead(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """h2 is proved off, returns, is prepared for the VM and takes it; then it is cut off before it is heard."""
    migrate = importlib.import_module("ostler_control.vms.migrate")
    address_and_state = migrate.address_and_state

    def before_the_proof(host_id: str) -> tuple[HostAddress, HostState]:
        found: tuple[HostAddress, HostState] = address_and_state(host_id)
        prove_off(site, "h2")
        return found

    monkeypatch.setattr(migrate, "address_and_state", before_the_proof)
    h2 = site.hosts["h2"]

    def cut_off(request: object) -> bool:
        h2.stop()
        return True

    lost = InternalError("the answer is lost", "COMMAND_FAILED")
    site.hosts["h1"].fail("MigrateVm", Fault(lost, before=False, only=cut_off))
    moving = site.record(lambda: vms.migrate(vm("high"), "alice", host=site.host("h2")))
    assert outcome(engine, moving) == ("failed", "MIGRATION_UNRESOLVED")
    assert site.fleet.running_on(vm("high").id) == ["h2"]
    assert not is_proved_off(site.host("h2"), vm("high").id)
    Operation.update(end_time=now().replace(year=2020)).execute()
    resolve_stranded(site.keys)
    finish_all(engine)
    free_vms(site.host("h2").id)
    assert vm("high").state is VmState.MIGRATING, "h1 has it no more, and h2 may run it"
    die(site, "h2")
    assert outcome(engine, site.record(lambda: fence(site.host("h2"), "root", device=False, automatic=False))) == OK
    Operation.update(end_time=now().replace(year=2020)).execute()
    resolve_stranded(site.keys)
    finish_all(engine)
    assert (vm("high").state, host_of("high")) == (VmState.RUNNING, "h2")
    assert free_vms(site.host("h2").id) == 1
    assert Vm.get(Vm.name == "high").state is VmState.STOPPED


def lose_both(site: Site, engine: Engine) -> Operation:
    """h1 and h2 lose their power while "high" moves from the one to the other."""

    def die_both(request: object) -> bool:
        for name in ("h1", "h2"):
            site.hosts[name].stop()
            site.hosts[name].vms.clear()
            site.hosts[name].secrets.clear()
        return True

    lost = InternalError("the answer is lost", "COMMAND_FAILED")
    site.hosts["h1"].fail("MigrateVm", Fault(lost, only=die_both))
    moving: Operation = site.record(lambda: vms.migrate(vm("high"), "alice", host=site.host("h2")))
    assert outcome(engine, moving) == ("failed", "MIGRATION_UNRESOLVED")
    Host.update(state=HostState.DISCONNECTED).where(Host.name.in_(["h1", "h2"])).execute()
    return moving


@pytest.mark.parametrize("moves_disks", [False, True])
def test_a_vm_whose_hosts_both_died_in_its_migration_starts_again(
    site: Site, engine: Engine, clock: Clock, moves_disks: bool
) -> None:
    """Unless its disks moved too: which copies are whole, only the hosts can tell."""
    moving = lose_both(site, engine)
    if moves_disks:
        with_disks = moving.inputs.replace('"moved":{}', '"moved":{"volume":"pool"}')
        assert with_disks != moving.inputs
        Operation.update(inputs=with_disks).where(Operation.id == moving.id).execute()
    for name in ("h1", "h2"):
        resolve_stranded(site.keys)
        assert not Operation.select().where(Operation.verb == "vm.resolve").exists(), "nobody can tell"
        by_word = partial(fence, site.host(name), "root", device=False, automatic=False)
        assert outcome(engine, site.record(by_word)) == OK
    resolve_stranded(site.keys)
    finish_all(engine)
    for _ in range(2):
        clock.tick()
        finish_all(engine)
    if moves_disks:
        assert (vm("high").state, "fell silent" in vm("high").attention) == (VmState.MIGRATING, True)
        return
    assert (vm("high").state, host_of("high")) == (VmState.RUNNING, "h3")
    assert site.fleet.running_on(vm("high").id) == ["h3"]
    site.check_whole()


def test_a_vm_whose_hosts_both_died_in_its_migration_and_returned_starts_again(
    site: Site, engine: Engine, clock: Clock
) -> None:
    """Neither is given back before the migration is resolved, and neither is up before it is given back."""
    lose_both(site, engine)
    for name in ("h1", "h2"):
        prove_off(site, name)
        site.hosts[name].start()
        tell(site, name, HostState.UP)
    resolve_stranded(site.keys)
    finish_all(engine)
    assert vm("high").state is VmState.RUNNING
    for name in ("h1", "h2"):
        compare(view(site, name))
    for _ in range(3):
        clock.tick(5)
        finish_all(engine)
    wait_until(lambda: not HostFence.select().exists())
    assert vm("high").state is VmState.RUNNING
    assert site.fleet.running_on(vm("high").id) == [host_of("high")]
