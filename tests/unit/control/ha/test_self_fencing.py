"""Hosts that fence themselves: what their leases prove, and who gets grants."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest
from ostler.agent.v1 import host_pb2 as agent_pb
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control import settings
from ostler_control.fleet import store
from ostler_control.ha import lease_watch, release, self_fence
from ostler_control.ha.fence import fence
from ostler_control.ha.guards import Guards
from ostler_control.ha.status import status
from ostler_control.models import (
    Cluster,
    Event,
    FenceState,
    Host,
    HostFence,
    HostGuard,
    HostState,
    PowerState,
    Vm,
    VmRestart,
    VmState,
    now,
)
from ostler_control.models.base import db
from ostler_control.operations import Engine
from ostler_control.settings.changes import Owner, change, reset
from ostler_control.states import GuardState

from tests.fakes.fence import FakeDevice
from tests.fakes.guard import FakeGuard
from tests.fakes.working_agent import wait_until
from tests.sites import Site, outcome
from tests.unit.control.ha.place import OK, ON_BOTH, Clock, die, finish_all, host_of, vm


@pytest.fixture
def guards(site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Guards:
    """Every host guards itself by a lease in the shared pool. A proof takes a second."""
    monkeypatch.setattr(lease_watch, "MARGIN_S", 0.5)
    monkeypatch.setattr(self_fence, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(self_fence, "_BLIND_S", 0.5)
    monkeypatch.setattr(release, "_ASK_EVERY_S", 0.05)
    change("ha.lease.pool", "shared", "root", Owner.of(Cluster.get()))
    guards = Guards(lambda: True, engine.agents)
    guards.tick()
    return guards


def guard_of(site: Site, name: str) -> FakeGuard:
    return site.hosts[name].guard


def stands(name: str) -> tuple[GuardState, str]:
    row = HostGuard.get(HostGuard.host == Host.get(Host.name == name).id)
    return row.state, row.reason


def by_lease(site: Site, engine: Engine) -> tuple[str, str]:
    operation = site.record(lambda: fence(site.host("h1"), "system", device=False, automatic=True, lease=True))
    return outcome(engine, operation)


def report(site: Site, name: str) -> None:
    """The watcher hears the host, and records which VMs stopped."""
    row = site.host(name)
    store.set_state(store.WatchedHost(row.id, row.name, row.address, row.state), HostState.UP, "")
    running = [vm_id for vm_id, machine in site.hosts[name].vms.items() if machine.running]
    Vm.update(power_state=PowerState.STOPPED).where(Vm.host == row.id, Vm.id.not_in(running)).execute()


@ON_BOTH
def test_vms_start_elsewhere_once_the_lease_was_unchanged_for_long_enough(
    site: Site, engine: Engine, guards: Guards, clock: Clock
) -> None:
    clock.tick()
    die(site, "h1")
    clock.tick()
    clock.tick(59)
    assert not HostFence.select().exists(), "silence is no proof"
    clock.tick(2)
    assert [host_of(name) for name in ("high", "low")] == ["h1", "h1"]
    finish_all(engine)
    assert HostFence.get().proof == "lease"
    for _ in range(2):
        clock.tick()
        finish_all(engine)
    assert {host_of("high"), host_of("low")} <= {"h2", "h3"}
    assert vm("other").state is VmState.STOPPED
    site.check_whole()


def test_a_host_that_renews_its_lease_runs_on(site: Site, engine: Engine, guards: Guards) -> None:
    """Only the way to its agent is broken."""
    guard_of(site, "h1").renews = True
    for name in ("h2", "h3"):
        guard_of(site, name).renews = True
    site.silence("h1")
    assert by_lease(site, engine) == ("failed", "LEASE_RENEWED")
    assert host_of("high") == "h1"
    assert site.host("h1").state is HostState.DISCONNECTED


@pytest.mark.parametrize("change", [{"released": True}, {"term": "another"}])
def test_a_lease_that_nobody_keeps_is_no_proof(
    site: Site, engine: Engine, guards: Guards, change: dict[str, object]
) -> None:
    """The guardian ended in an orderly way, or another one has begun since the host was last heard."""
    site.silence("h1")
    for name, value in change.items():
        setattr(guard_of(site, "h1").lease(), name, value)
    assert by_lease(site, engine) == ("failed", "LEASE_UNGUARDED")
    assert host_of("high") == "h1"


def test_a_lease_that_no_host_can_read_is_no_proof(site: Site, engine: Engine, guards: Guards) -> None:
    """The storage is gone for all, so that an unchanged number would mean nothing."""
    site.silence("h1")
    guard_of(site, "h2").blind = True
    guard_of(site, "h3").blind = True
    assert by_lease(site, engine) == ("failed", "LEASE_UNREADABLE")
    guard_of(site, "h3").blind = False
    assert by_lease(site, engine) == OK, "one that can is enough"


def test_a_host_that_answers_again_is_left_alone(site: Site, engine: Engine, guards: Guards) -> None:
    guard_of(site, "h1").ends_within_ms = 3000
    guards.tick()
    site.silence("h1")
    operation = site.record(lambda: fence(site.host("h1"), "system", device=False, automatic=True, lease=True))
    wait_until(lambda: "lease" in type(operation).get_by_id(operation.id).phase)
    site.hosts["h1"].start()
    assert outcome(engine, operation) == ("failed", "HOST_ANSWERS")
    assert host_of("high") == "h1"


def test_a_host_that_was_heard_for_a_moment_meanwhile_is_left_alone(site: Site, engine: Engine, guards: Guards) -> None:
    guard_of(site, "h1").ends_within_ms = 3000
    guards.tick()
    site.silence("h1")
    operation = site.record(lambda: fence(site.host("h1"), "system", device=False, automatic=True, lease=True))
    wait_until(lambda: "lease" in type(operation).get_by_id(operation.id).phase)
    HostFence.update(heard=True).execute()
    assert outcome(engine, operation) == ("failed", "HOST_ANSWERS")


def test_a_host_that_never_guarded_itself_has_no_such_proof(site: Site, engine: Engine) -> None:
    site.silence("h1")
    assert by_lease(site, engine) == ("failed", "LEASE_UNGUARDED")


def test_a_dead_fence_device_and_the_lease_take_turns(
    site: Site, engine: Engine, guards: Guards, bmc: FakeDevice, clock: Clock
) -> None:
    bmc.fault("dead")
    clock.tick()
    die(site, "h1")
    clock.tick()
    clock.tick(61)
    finish_all(engine)
    assert HostFence.get().state is FenceState.FAILED
    HostFence.update(state_time=now() - datetime.timedelta(hours=1)).execute()  # the pause is over
    clock.tick()
    clock.tick(61)
    finish_all(engine)
    assert (HostFence.get().state, HostFence.get().proof) == (FenceState.OFF, "lease")
    assert bmc.calls() == ["off"]


def test_grants_name_the_moment_of_an_earlier_answer(site: Site, guards: Guards) -> None:
    guards.tick()
    guards.tick()
    term, pool_id = guard_of(site, "h1").term, site.pools["shared"].id
    assert guard_of(site, "h1").calls == [(pool_id, ""), (pool_id, f"{term}/1"), (pool_id, f"{term}/2")]
    assert stands("h1") == (GuardState.GUARDING, "")


@pytest.mark.parametrize("state", [FenceState.FENCING, FenceState.OFF])
def test_a_host_that_is_fenced_gets_no_grant(site: Site, guards: Guards, state: FenceState) -> None:
    """Even though it can be reached, and whatever its state is taken for."""
    HostFence.create(host=site.host("h1"), state=state, operation_id="o")
    before = len(guard_of(site, "h1").calls)
    guards.tick()
    assert len(guard_of(site, "h1").calls) == before
    assert len(guard_of(site, "h2").calls) == 2


def test_the_lease_of_a_returned_host_with_another_guardian_proves_it_when_it_dies_again(
    site: Site, engine: Engine, guards: Guards
) -> None:
    """An admin had declared it dead, and it was switched on again. It is asked who guards it, and gets no grant."""
    site.silence("h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=False, automatic=False))) == OK
    report(site, "h1")
    guard = guard_of(site, "h1")
    guard.term, guard.calls = "term of its next life", []
    guard.leases.clear()
    site.hosts["h1"].start()
    for _ in range(2):
        guards.tick()
    assert {stamp for _, stamp in guard.calls} == {""}
    assert HostGuard.get(HostGuard.host == site.host("h1").id).term == guard.term
    site.hosts["h1"].stop()
    assert by_lease(site, engine) == OK
    assert HostFence.get().proof == "lease"


def test_a_replica_that_does_not_lead_gives_no_grant(site: Site, engine: Engine, guards: Guards) -> None:
    other = Guards(lambda: False, engine.agents)
    before = list(guard_of(site, "h1").calls)
    other.work()
    assert guard_of(site, "h1").calls == before


def test_a_lease_of_before_proves_nothing_once_the_pool_is_another(site: Site, engine: Engine, guards: Guards) -> None:
    """Recorded before the host is told: its answer may be lost."""
    reset("ha.lease.pool", "root", Owner.of(Cluster.get()))
    site.hosts["h1"].stop()
    guards.tick()
    assert stands("h1") == (GuardState.OFF, "")
    assert HostGuard.get(HostGuard.host == site.host("h1").id).term == ""
    site.silence("h1")
    assert by_lease(site, engine) == ("failed", "LEASE_UNGUARDED")


def test_a_silent_hosts_last_word_counts(site: Site, guards: Guards) -> None:
    site.hosts["h1"].stop()
    guards.tick()
    assert stands("h1") == (GuardState.GUARDING, "")


def test_why_a_host_does_not_guard_itself_is_shown(site: Site, guards: Guards) -> None:
    guard_of(site, "h1").refusal = FailedPreconditionError("no guardian runs on this host", "GUARDIAN_ABSENT")
    guard_of(site, "h2").ends_within_ms = 3_600_000
    guards.tick()
    guard_of(site, "h3").answers_state = 77
    assert stands("h1") == (GuardState.OFF, "no guardian runs on this host")
    state, reason = stands("h2")
    assert state is GuardState.OFF
    assert "ends_within_ms is 3600000" in reason
    shown = {host.row.name: host for host in status(Cluster.get()).hosts}
    assert [shown[name].facts.has_lease for name in ("h1", "h2", "h3")] == [False, False, True]
    guards.tick()
    assert "state is 77" in stands("h3")[1]


def test_hosts_at_rest_cost_the_database_a_few_reads_and_no_write(
    site: Site, guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    execute = db.obj.execute_sql

    def noting(sql: str, *args: object) -> object:
        statements.append(sql)
        return execute(sql, *args)

    monkeypatch.setattr(db.obj, "execute_sql", noting)
    guards.tick()
    assert [sql for sql in statements if not sql.startswith("SELECT")] == []
    assert len(statements) == 4, "settings, guardians and hosts, however many there are"


def test_a_host_that_ended_its_vms_and_is_heard_is_given_back_after_they_are_freed(
    site: Site, engine: Engine, guards: Guards, clock: Clock
) -> None:
    """Storage and control plane were away for long enough, but not for long enough to be fenced."""
    guard_of(site, "h1").end()
    guards.tick()
    assert (HostFence.get().proof, HostFence.get().heard) == ("lease", True)
    assert site.host("h1").state is HostState.FENCED
    assert Event.select().where(Event.type == "host.guard.end").count() == 1
    guards.tick()
    report(site, "h1")
    for _ in range(4):
        clock.tick()
        finish_all(engine)
    assert [vm(name).state for name in ("high", "low", "other")] == [VmState.RUNNING, VmState.RUNNING, VmState.STOPPED]
    assert site.host("h1").state is HostState.UP
    assert guard_of(site, "h1").state == agent_pb.Guard.GUARDING
    guards.tick()
    assert stands("h1") == (GuardState.GUARDING, "")
    site.check_whole()


def test_a_host_is_not_given_back_before_the_end_of_its_vms_is_recorded(
    site: Site, engine: Engine, guards: Guards, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "_WAIT_S", 0.5)
    guard_of(site, "h1").end()
    guards.tick()
    clock.tick()
    finish_all(engine)
    assert guard_of(site, "h1").state == agent_pb.Guard.ENDED
    assert site.host("h1").state is HostState.FENCED
    report(site, "h1")
    for _ in range(3):
        clock.tick()
        finish_all(engine)
    assert site.host("h1").state is HostState.UP


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.message


def test_only_a_shared_pool_holds_leases(site: Site) -> None:
    owner = Owner.of(Cluster.get())
    assert "there is no pool nowhere" in refused(lambda: change("ha.lease.pool", "nowhere", "root", owner))
    assert "not shared" in refused(lambda: change("ha.lease.pool", "local1", "root", owner))
    change("ha.lease.pool", "shared", "root", owner)
    stored = settings.ha.LEASE_POOL.get(owner.at)
    assert stored == site.pools["shared"].id
    assert settings.ha.LEASE_POOL.show(stored) == "shared"


def test_a_vm_whose_image_lock_is_still_held_starts_once_it_is_free(
    site: Site, engine: Engine, guards: Guards, clock: Clock
) -> None:
    """A guardian that hung with nobody to watch it: the VM ran on, and ends when the guardian goes on."""
    site.fleet.image_locks = True
    clock.tick()
    site.silence("h1")
    clock.tick()
    clock.tick(61)
    finish_all(engine)
    clock.tick()
    finish_all(engine)
    clock.tick()
    assert [row.attempts for row in VmRestart.select()] == [1, 1]
    site.hosts["h1"].end_vms()
    VmRestart.update(next_time=now()).execute()
    clock.tick()
    finish_all(engine)
    clock.tick()
    assert {host_of("high"), host_of("low")} <= {"h2", "h3"}
