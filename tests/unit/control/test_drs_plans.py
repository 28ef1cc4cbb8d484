"""DRS plans from generation to their end, against agents that work in memory."""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import peewee
import pytest
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, OstlerError
from ostler_control import drs_plans, settings, vms
from ostler_control.database import transaction
from ostler_control.drs import Mode
from ostler_control.drs_plans import executor, scheduler, snapshot, store
from ostler_control.drs_plans.generate import chosen
from ostler_control.fleet.smoothing import Smooth
from ostler_control.hosts import manage as manage_hosts
from ostler_control.models import (
    Account,
    AffinityGroup,
    Cluster,
    DrsCondition,
    DrsMove,
    DrsPlan,
    Event,
    Host,
    Operation,
    Vm,
    db,
    now,
)
from ostler_control.operations import Engine
from ostler_control.scheduling import affinity

from tests import databases
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import Site, new_site, outcome, site_at_work

ROOT = Path(__file__).parents[3]
OK = ("succeeded", "")
NO = FailedPreconditionError("the memory would not go", "NO_WAY")


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    state_dir = tmp_path_factory.mktemp("site")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as working:
        yield working


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Iterator[Site]:
    """A cluster that is to be as level as can be; every test leaves it whole and empty."""
    site, engine = working
    executor.PATIENCE_S, executor._LOOK_S, executor._LOOK_AGAIN_S = 1.0, 0.05, 0.2
    tune(site, {"drs.imbalance": "1.0", "drs.cost.weight": "0", "drs.vm.cooldown": "0", "drs.automatic.hold": "0"})
    yield site
    for fake in site.hosts.values():
        fake.faults.clear()
    for vm in list(Vm.select()):
        assert outcome(engine, site.record(partial(vms.delete, vm, "root", force=True))) == OK
    site.check_whole()
    DrsPlan.delete().execute()
    DrsCondition.delete().execute()
    Event.delete().execute()
    for group in list(AffinityGroup.select()):
        affinity.delete(group, "root")
    for name in settings.SETTINGS:
        if name.startswith("drs."):
            settings.reset(name, "root")
    Host.update(maintenance=False, enabled=True, smooth_load="").execute()


@pytest.fixture
def engine(working: tuple[Site, Engine]) -> Engine:
    return working[1]


def tune(site: Site, values: dict[str, str]) -> None:
    for name, value in values.items():
        settings.change(name, value, "root")


def cluster() -> Any:
    return Cluster.get()


def pile(site: Site, engine: Engine, count: int, host: str = "h1", prefix: str = "vm", **more: Any) -> list[Any]:
    """VMs that run on one host."""
    made = [
        site.record(partial(site.new_vm, f"{prefix}{number}", offering=site.plain, host=site.host(host), **more))
        for number in range(count)
    ]
    for operation in made:
        assert outcome(engine, operation) == OK
    return [vm_of(operation) for operation in made]


def vm_of(operation: Any) -> Any:
    return Vm.get_by_id(operation.resource_id)


def planned(mode: Mode = Mode.BALANCE, max_migrations: int = 0) -> Any:
    found = drs_plans.generate(cluster(), mode, max_migrations)
    with transaction():
        return drs_plans.keep(cluster(), found, type="manual", mode=mode.value, user="ada")


def go(site: Site, plan: Any) -> Any:
    return site.record(lambda: drs_plans.execute(plan, "ada"))


def fresh(row: Any) -> Any:
    return type(row).get_by_id(row.id)


def spread() -> dict[str, int]:
    rows: list[Any] = list(Vm.select())
    return dict(Counter(vm.host.name for vm in rows if vm.host_id))


def states(plan: Any) -> dict[str, int]:
    return dict(Counter(move.state for move in store.moves_of(plan.id)))


def why(plan: Any, state: str) -> list[str]:
    return [move.state_reason for move in store.moves_of(plan.id) if move.state == state]


def test_a_pile_is_planned_reviewed_and_levelled(site: Site, engine: Engine) -> None:
    pile(site, engine, 6)
    plan = planned()
    assert (plan.state, plan.type, len(store.moves_of(plan.id))) == ("under_review", "manual", 4)
    assert spread() == {"h1": 6}, "a plan moves nothing"
    assert plan.imbalance_before > 1.4
    assert plan.imbalance_after < 0.01
    operation = go(site, plan)
    assert outcome(engine, operation) == OK
    plan = fresh(plan)
    assert (plan.state, plan.operation_id, plan.outcome) == ("completed", operation.id, "4 of 4 moves made")
    assert spread() == {"h1": 2, "h2": 2, "h3": 2}
    for move in store.moves_of(plan.id):
        assert move.operation_id == executor.operation_id_of(plan.id, move.id)
        made: Any = Operation.get_by_id(move.operation_id)
        assert (made.verb, made.state, made.user) == ("vm.migrate", "succeeded", "ada")
        assert Vm.get_by_id(move.vm_id).move_time is not None
    told = Counter((event.type, event.outcome) for event in Event.select())
    assert told["drs.generate", "succeeded"] == told["drs.execute", "started"] == told["drs.execute", "succeeded"] == 1
    assert told["drs.move", "started"] == told["drs.move", "succeeded"] == 4
    site.check_whole()


def test_what_is_level_needs_no_plan(site: Site, engine: Engine) -> None:
    plan = planned()
    assert (plan.state, store.moves_of(plan.id)) == ("completed", [])
    with pytest.raises(FailedPreconditionError) as caught:
        go(site, plan)
    assert caught.value.reason == "PLAN_STATE"


def test_fewer_moves_when_so_wished(site: Site, engine: Engine) -> None:
    pile(site, engine, 6)
    assert len(store.moves_of(planned(max_migrations=2).id)) == 2
    with pytest.raises(OstlerError, match="max_migrations"):
        planned(max_migrations=-1)


def test_moves_of_another_time_are_skipped_with_the_reason(site: Site, engine: Engine) -> None:
    pile(site, engine, 7)
    plan = planned()
    moves = store.moves_of(plan.id)
    assert len(moves) == 4
    gone, moved, stopped, left = (Vm.get_by_id(move.vm_id) for move in moves)
    assert outcome(engine, site.record(lambda: vms.delete(gone, "root", force=True))) == OK
    elsewhere = next(host for host in ("h2", "h3") if host != moves[1].destination_name)
    assert outcome(engine, site.record(lambda: vms.migrate(moved, "root", site.host(elsewhere)))) == OK
    assert outcome(engine, site.record(lambda: vms.stop(stopped, "root"))) == OK
    operation = go(site, plan)
    assert outcome(engine, operation) == ("failed", "PLAN_PARTIAL")
    assert fresh(plan).state == "partial"
    assert states(plan) == {"skipped": 3, "done": 1}
    assert fresh(left).host.name == moves[3].destination_name
    assert why(plan, "skipped") == ["the VM is gone", "the VM is no longer on h1", "the VM is stopped"]


def test_a_destination_in_maintenance_takes_none(site: Site, engine: Engine) -> None:
    pile(site, engine, 6)
    plan = planned()
    Host.update(maintenance=True).where(Host.name == "h3").execute()
    assert outcome(engine, go(site, plan)) == ("failed", "PLAN_PARTIAL")
    assert spread() == {"h1": 4, "h2": 2}
    assert set(why(plan, "skipped")) == {"h3: it is in maintenance"}


def test_a_host_that_dies_in_mid_plan_leaves_a_partial_plan_and_every_vm_accounted_for(
    site: Site, engine: Engine
) -> None:
    pile(site, engine, 6)
    tune(site, {"drs.max.parallel.per.cluster": "1"})
    plan = planned()
    first = store.moves_of(plan.id)[0].destination_name
    dying = site.hosts["h2" if first == "h3" else "h3"]
    hold = threading.Event()
    fault = site.hosts["h1"].fail("MigrateVm", Fault(hold=hold))
    operation = go(site, plan)
    assert fault.reached.wait(20)
    site.silence(dying.name)
    hold.set()
    assert outcome(engine, operation) == ("failed", "PLAN_PARTIAL")
    assert fresh(plan).state == "partial"
    assert states(plan) == {"done": 2, "skipped": 2}
    assert set(why(plan, "skipped")) == {f"host {dying.name} is disconnected"}
    assert spread() == {"h1": 4, first: 2}
    assert all(vm.state == "running" for vm in Vm.select())
    site.revive(dying.name)
    site.check_whole()


def test_a_plan_of_which_too_much_fails_ends(site: Site, engine: Engine) -> None:
    pile(site, engine, 9)
    tune(site, {"drs.plan.max.failures": "2", "drs.max.parallel.per.cluster": "1"})
    site.hosts["h1"].fail("MigrateVm", Fault(NO, times=100))
    plan = planned()
    assert outcome(engine, go(site, plan)) == ("failed", "PLAN_FAILED")
    assert fresh(plan).state == "failed"
    assert states(plan) == {"failed": 2, "cancelled": 4}
    assert why(plan, "failed") == [NO.message] * 2
    assert spread() == {"h1": 9}


def test_a_move_that_is_told_to_have_failed_and_arrived_is_done(site: Site, engine: Engine) -> None:
    pile(site, engine, 3)
    for name in ("h2", "h3"):
        site.hosts[name].fail("FinishMigration", Fault(NO, times=100))
    plan = planned()
    assert outcome(engine, go(site, plan)) == OK
    assert states(plan) == {"done": 2}
    assert why(plan, "done") == [NO.message] * 2
    assert {row.state for row in Operation.select().where(Operation.verb == "vm.migrate")} >= {"failed"}


@pytest.mark.parametrize("way", ["plan", "operation"])
def test_cancelling_finishes_what_is_under_way_and_begins_no_more(site: Site, engine: Engine, way: str) -> None:
    pile(site, engine, 6)
    tune(site, {"drs.max.parallel.per.cluster": "1"})
    hold = threading.Event()
    fault = site.hosts["h1"].fail("MigrateVm", Fault(hold=hold))
    plan = planned()
    operation = go(site, plan)
    assert fault.reached.wait(20)
    if way == "plan":
        drs_plans.cancel(fresh(plan), "eve", engine.cancel)
    else:
        engine.cancel(operation.id)
    wait_until(lambda: states(plan).get("cancelled") == 3)
    hold.set()
    assert outcome(engine, operation) == ("cancelled", "PLAN_CANCELLED")
    assert (fresh(plan).state, states(plan)) == ("cancelled", {"done": 1, "cancelled": 3})
    with pytest.raises(FailedPreconditionError) as caught:
        drs_plans.cancel(fresh(plan), "eve", engine.cancel)
    assert caught.value.reason == "PLAN_STATE"


def test_a_plan_under_review_is_dropped(site: Site, engine: Engine) -> None:
    pile(site, engine, 3)
    plan = drs_plans.cancel(planned(), "eve", engine.cancel)
    assert Event.get(Event.type == "drs.cancel").actor == "eve"
    assert (plan.state, plan.outcome) == ("cancelled", "dropped by eve")


@pytest.mark.slow
@pytest.mark.parametrize(("per_host", "per_cluster", "most"), [(2, 4, 2), (3, 4, 3), (3, 1, 1)])
def test_limits_a_host_and_a_cluster(site: Site, engine: Engine, per_host: int, per_cluster: int, most: int) -> None:
    pile(site, engine, 9)
    tune(site, {"drs.max.parallel.per.host": str(per_host), "drs.max.parallel.per.cluster": str(per_cluster)})
    hold = threading.Event()
    site.hosts["h1"].fail("MigrateVm", Fault(hold=hold, times=100))
    plan = planned()
    operation = go(site, plan)
    wait_until(lambda: states(plan).get("running") == most)
    # Looks again several times, and begins no further one.
    begun = {row.id for row in Operation.select().where(Operation.verb == "vm.migrate", Operation.end_time.is_null())}
    threading.Event().wait(0.6)
    assert states(plan)["running"] == most == len(begun)
    hold.set()
    assert outcome(engine, operation) == OK


def test_one_plan_of_a_cluster_at_a_time(site: Site, engine: Engine) -> None:
    pile(site, engine, 3)
    hold = threading.Event()
    fault = site.hosts["h1"].fail("MigrateVm", Fault(hold=hold, times=2))
    first, second = planned(), planned()
    operation = go(site, first)
    assert fault.reached.wait(20)
    assert (fresh(second).state, fresh(second).outcome) == ("expired", f"{first.name} came first")
    third = planned()
    for make in (
        lambda: drs_plans.execute(third, "ada"),
        lambda: drs_plans.execute_mapping(cluster(), drs_plans.generate(cluster()), "ada"),
    ):
        with pytest.raises(FailedPreconditionError, match=first.name) as caught:
            site.record(make)
        assert caught.value.reason == "PLAN_ACTIVE"
    assert fresh(third).state == "under_review"
    hold.set()
    assert outcome(engine, operation) == OK


def test_moves_that_somebody_has_chosen(site: Site, engine: Engine) -> None:
    made = pile(site, engine, 3)
    h2, h3 = site.host("h2"), site.host("h3")
    Vm.update(drs_skip=True).execute()
    found = chosen(cluster(), [(made[0].id, h2.id), (made[1].id, h3.id)], "by ada")
    assert (len(found.moves), found.imbalance_after < found.imbalance_before) == (2, True)
    operation = site.record(lambda: drs_plans.execute_mapping(cluster(), found, "ada"))
    assert outcome(engine, operation) == OK
    assert spread() == {"h1": 1, "h2": 1, "h3": 1}
    plan: Any = DrsPlan.get(DrsPlan.operation_id == operation.id)
    assert (plan.mode, plan.type, plan.state) == ("mapping", "manual", "completed")
    Host.update(maintenance=True).where(Host.id == h3.id).execute()
    for vm_id, host_id, told in (
        (made[2].id, h3.id, "it is in maintenance"),
        (made[2].id, made[2].host_id, "has it already|there already"),
        ("nobody", h2.id, "on no host of cluster"),
        (made[2].id, "nowhere", "not in cluster"),
    ):
        with pytest.raises(FailedPreconditionError, match=told):
            chosen(cluster(), [(vm_id, host_id)], "by ada")


def group(site: Site, name: str, kind: str, strict: bool = True) -> Any:
    return affinity.create(name, site.account, kind, strict, "root")


def test_groups_that_name_hosts_bind_placements_moves_and_plans(site: Site, engine: Engine) -> None:
    h2 = site.host("h2")
    only = affinity.create("only", site.account, affinity.RUN_ON, True, "root", [h2])
    made = site.record(partial(site.new_vm, "a", offering=site.plain, affinity_groups=[only]))
    assert outcome(engine, made) == OK
    a = vm_of(made)
    assert a.host_id == h2.id
    with pytest.raises(FailedPreconditionError, match="none of the hosts it must run on"):
        site.record(lambda: vms.migrate(a, "root", site.host("h1")))
    with pytest.raises(FailedPreconditionError, match="none of the hosts it must run on"):
        chosen(cluster(), [(a.id, site.host("h1").id)], "by ada")
    affinity.set_hosts(only, [site.host("h1")], "root")
    found = drs_plans.generate(cluster(), Mode.REPAIR)
    assert [(move.vm_name, move.destination_name) for move in found.moves] == [("a", site.host("h1").name)]
    assert [rule.explanation for rule in found.broken_before] == ['1 VMs of "only" are off the hosts it names']
    never = affinity.create("never", site.account, affinity.NOT_RUN_ON, True, "root", [h2])
    with pytest.raises(FailedPreconditionError, match="is a host it must not run on"):
        site.record(partial(site.new_vm, "b", offering=site.plain, affinity_groups=[never], host=h2))
    with pytest.raises(InvalidArgumentError, match="names at least one host"):
        affinity.create("none", site.account, affinity.RUN_ON, True, "root")


def test_strict_anti_affinity_holds_for_placements_moves_and_plans(site: Site, engine: Engine) -> None:
    apart = group(site, "apart", affinity.ANTI_AFFINITY)
    made = [site.record(partial(site.new_vm, name, offering=site.plain, affinity_groups=[apart])) for name in "ab"]
    assert [outcome(engine, operation) for operation in made] == [OK, OK]
    a, b = map(vm_of, made)
    assert a.host_id != b.host_id
    with pytest.raises(FailedPreconditionError, match="anti-affinity keeps apart"):
        site.record(lambda: vms.migrate(a, "root", b.host))
    refusals = {found.host_name: found.refusal for found in vms.find_hosts(fresh(a))}
    refused = refusals[b.host.name]
    assert refused is not None
    assert refused.code == "ANTI_AFFINITY"
    with pytest.raises(FailedPreconditionError, match="apart"):
        chosen(cluster(), [(a.id, b.host_id)], "by ada")
    third = site.record(partial(site.new_vm, "c", offering=site.plain, affinity_groups=[apart]))
    assert outcome(engine, third) == OK
    with pytest.raises(FailedPreconditionError, match="3 have a VM that anti-affinity keeps apart"):
        site.record(partial(site.new_vm, "d", offering=site.plain, affinity_groups=[apart]))
    assert set(spread().values()) == {1}


def test_a_vm_on_its_way_is_in_two_places(site: Site, engine: Engine) -> None:
    apart = group(site, "apart", affinity.ANTI_AFFINITY)
    (a,) = pile(site, engine, 1, "h1", "a", affinity_groups=[apart])
    hold = threading.Event()
    fault = site.hosts["h1"].fail("MigrateVm", Fault(hold=hold))
    operation = site.record(lambda: vms.migrate(a, "root", site.host("h2")))
    assert fault.reached.wait(20)
    present = snapshot.take(cluster())
    assert present.arriving == {f"{a.id}@{site.host('h2').id}"}
    for taken in ("h1", "h2"):
        with pytest.raises(FailedPreconditionError, match="1 has a VM that anti-affinity keeps apart"):
            site.record(partial(site.new_vm, "b", offering=site.plain, affinity_groups=[apart], host=site.host(taken)))
    made = site.record(partial(site.new_vm, "b", offering=site.plain, affinity_groups=[apart]))
    host_now = Vm.get_by_id(made.resource_id).host
    assert host_now is not None
    assert host_now.name == "h3"
    hold.set()
    assert outcome(engine, operation) == OK
    assert outcome(engine, made) == OK


def test_affinity_keeps_together_and_preferences_weigh(site: Site, engine: Engine) -> None:
    together, prefer = group(site, "together", affinity.AFFINITY), group(site, "liked", affinity.AFFINITY, False)
    shy = group(site, "shy", affinity.ANTI_AFFINITY, False)
    (a,) = pile(site, engine, 1, "h2", "a", affinity_groups=[together, prefer, shy])
    for name, groups, places in (
        ("b", [together], {"h2"}),
        ("c", [prefer], {"h2"}),
        ("d", [shy], {"h1", "h3"}),
    ):
        operation = site.record(partial(site.new_vm, name, offering=site.plain, affinity_groups=groups))
        assert outcome(engine, operation) == OK
        host_now = Vm.get_by_id(operation.resource_id).host
        assert host_now is not None
        assert host_now.name in places, name
    with pytest.raises(FailedPreconditionError, match="together"):
        site.record(lambda: vms.migrate(a, "root", site.host("h1")))
    # A host that is to be emptied holds nobody back.
    Host.update(maintenance=True).where(Host.name == "h2").execute()
    assert outcome(engine, site.record(lambda: vms.migrate(a, "root", site.host("h1")))) == OK


def test_groups_of_other_accounts_are_not_joined(site: Site, engine: Engine) -> None:
    other = affinity.create("alien", Account.create(name="other"), affinity.AFFINITY, True, "root")
    (a,) = pile(site, engine, 1)
    with pytest.raises(FailedPreconditionError) as caught:
        vms.update(a, "root", groups=[other])
    assert caught.value.reason == "OTHER_ACCOUNT"
    vms.update(a, "root", drs_skip=True)
    assert fresh(a).drs_skip


def test_a_broken_rule_is_repaired(site: Site, engine: Engine) -> None:
    made = pile(site, engine, 2)
    apart = group(site, "apart", affinity.ANTI_AFFINITY)
    for vm in made:
        vms.update(vm, "root", groups=[apart])
    plan = planned(Mode.REPAIR)
    assert len(store.moves_of(plan.id)) == 1
    assert outcome(engine, go(site, plan)) == OK
    assert sorted(spread().values()) == [1, 1]
    assert planned(Mode.REPAIR).state == "completed"


def test_who_opted_out_or_cools_down_stays(site: Site, engine: Engine) -> None:
    made = pile(site, engine, 6)
    Vm.update(drs_skip=True).where(Vm.id == made[0].id).execute()
    Vm.update(move_time=now()).where(Vm.id == made[1].id).execute()
    tune(site, {"drs.vm.cooldown": "30"})
    plan = planned()
    moved = {move.vm_id for move in store.moves_of(plan.id)}
    assert len(moved) == 4
    assert not moved & {made[0].id, made[1].id}
    later = {move.vm_id for move in store.moves_of(plan.id)[2:]}
    Vm.update(drs_skip=True).where(Vm.id.in_(list(later))).execute()
    assert outcome(engine, go(site, plan)) == ("failed", "PLAN_PARTIAL")
    assert why(plan, "skipped") == ["the VM has opted out meanwhile"] * 2


def evacuated(site: Site, name: str) -> Any:
    host = site.host(name)
    found = drs_plans.evacuation(host)
    make = partial(drs_plans.execute_mapping, host.cluster, found, "ada", mode="evacuate", host_id=host.id)
    return site.record(make)


def test_maintenance_empties_a_host_and_its_end_fills_it_again(site: Site, engine: Engine) -> None:
    made = pile(site, engine, 5, "h1")
    Vm.update(drs_skip=True, move_time=now()).where(Vm.id == made[0].id).execute()
    with pytest.raises(FailedPreconditionError) as caught:
        drs_plans.evacuation(site.host("h1"))
    assert caught.value.reason == "NOT_IN_MAINTENANCE"
    with pytest.raises(FailedPreconditionError) as caught:
        drs_plans.way_back(site.host("h1"))
    assert caught.value.reason == "NO_EVACUATION"
    Host.update(maintenance=True).where(Host.name == "h1").execute()
    assert outcome(engine, evacuated(site, "h1")) == OK
    assert "h1" not in spread()
    Host.update(maintenance=False).where(Host.name == "h1").execute()
    assert outcome(engine, site.record(lambda: vms.stop(made[3], "root"))) == OK
    back = drs_plans.way_back(site.host("h1"))
    assert {move.vm_name for move in back.moves} == {"vm0", "vm1", "vm2", "vm4"}
    with transaction():
        plan = drs_plans.keep(cluster(), back, type="manual", mode="return", user="ada", host_id=site.host("h1").id)
    assert outcome(engine, go(site, plan)) == OK
    assert spread() == {"h1": 4}


def test_an_evacuation_says_who_cannot_leave_and_why(site: Site, engine: Engine) -> None:
    (stuck,) = pile(site, engine, 1, "h1", "stuck", pool=site.pools["local1"])
    pile(site, engine, 2, "h1")
    Host.update(maintenance=True).where(Host.name == "h1").execute()
    operation = evacuated(site, "h1")
    assert outcome(engine, operation) == ("failed", "PLAN_PARTIAL")
    plan: Any = DrsPlan.get(DrsPlan.operation_id == operation.id)
    assert plan.outcome == "2 of 2 moves made; 1 VM cannot leave"
    assert '"NO_HOST_TAKES_IT"' in plan.report
    assert "LACKS_POOL" in plan.report
    assert fresh(stuck).host.name == "h1"


def test_automatic_plans_come_in_time_and_back_off(site: Site, engine: Engine) -> None:
    pile(site, engine, 6)
    start = now()
    scheduler.tick(start)
    assert DrsPlan.select().count() == 0, "it is off by default"
    tune(site, {"drs.automatic.enable": "true", "drs.automatic.interval": "60"})
    site.hosts["h1"].fail("MigrateVm", Fault(NO, times=1000))

    def last() -> Any:
        return DrsPlan.select().order_by(DrsPlan.create_time.desc(), DrsPlan.id).first()

    def ended() -> Any:
        plan = last()
        engine.wait(plan.operation_id, 30)
        return fresh(plan)

    scheduler.tick(start)
    first = ended()
    assert (first.type, first.state, first.user) == ("automated", "failed", "system")
    minutes = [(scheduler.next_time(cluster()) - first.state_time).total_seconds() / 60]
    scheduler.tick(start + datetime.timedelta(minutes=61))
    assert DrsPlan.select().count() == 1, "after a failure it waits longer"
    scheduler.tick(first.state_time + datetime.timedelta(minutes=121))
    second = ended()
    assert second.id != first.id
    minutes.append((scheduler.next_time(cluster()) - second.state_time).total_seconds() / 60)
    assert minutes == [120, 240]
    site.hosts["h1"].faults.clear()
    scheduler.tick(second.state_time + datetime.timedelta(minutes=241))
    third = ended()
    assert (third.state, spread()) == ("completed", {"h1": 2, "h2": 2, "h3": 2})
    assert scheduler.next_time(cluster()) == third.state_time + datetime.timedelta(minutes=60)
    scheduler.tick(third.state_time + datetime.timedelta(minutes=61))
    assert (last().state, last().explanation[:8]) == ("completed", "balanced")
    Host.update(enabled=False).where(Host.name != "h1").execute()
    assert scheduler.next_time(cluster()) is None


def test_a_plan_that_cannot_be_made_is_told_once_an_interval(site: Site, engine: Engine) -> None:
    tune(site, {"drs.automatic.enable": "true", "drs.source": "measured"})
    time = now()
    scheduler.tick(time)
    scheduler.tick(time + datetime.timedelta(seconds=30))
    plan: Any = DrsPlan.get()
    assert (plan.state, "lack samples" in plan.outcome) == ("failed", True)
    events = [(event.type, event.outcome) for event in Event.select().where(Event.resource_type == "drs")]
    assert events == [("drs.generate", "failed")]


def test_an_outage_of_the_database_is_no_failure_of_planning(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next plan would wait twice as long."""
    tune(site, {"drs.automatic.enable": "true"})

    def away(*_: object) -> None:
        raise peewee.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_found", away)
        with pytest.raises(peewee.OperationalError):
            scheduler.tick(now())
    assert DrsPlan.select().count() == 0
    scheduler.tick(now())
    assert DrsPlan.get().state == "completed"


def test_broken_rules_come_before_balance(site: Site, engine: Engine) -> None:
    made = pile(site, engine, 2)
    apart = group(site, "apart", affinity.ANTI_AFFINITY)
    for vm in made:
        vms.update(vm, "root", groups=[apart])
    tune(site, {"drs.automatic.enable": "true"})
    scheduler.tick(now())
    plan: Any = DrsPlan.get()
    assert plan.mode == "repair"
    assert outcome(engine, Operation.get_by_id(plan.operation_id)) == OK


def test_plans_expire_and_are_forgotten(site: Site, engine: Engine) -> None:
    pile(site, engine, 3)
    plan = planned()
    scheduler.tick(now() + datetime.timedelta(hours=23))
    assert fresh(plan).state == "under_review"
    scheduler.tick(now() + datetime.timedelta(hours=25))
    assert fresh(plan).state == "expired"
    scheduler.tick(now() + datetime.timedelta(days=29))
    assert DrsPlan.select().count() == 1
    scheduler.tick(now() + datetime.timedelta(days=31))
    assert DrsPlan.select().count() == DrsMove.select().count() == 0


def test_a_plan_whose_operation_ended_early_is_not_in_the_way(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pile(site, engine, 3)

    def fall(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(executor.Execution, "_recheck", fall)
        plan = planned()
        assert outcome(engine, go(site, plan)) == ("failed", "INTERNAL")
    assert fresh(plan).state == "in_progress"
    scheduler.tick(now())
    assert (fresh(plan).state, states(plan)) == ("failed", {"cancelled": 2})


def test_automatic_plans_keep_to_their_window(site: Site) -> None:
    tune(site, {"drs.automatic.enable": "true", "drs.automatic.window": "Sat 01:00-02:00"})
    monday, saturday = datetime.datetime(2026, 3, 2, 12), datetime.datetime(2026, 3, 7, 1)
    Cluster.update(create_time=monday).execute()
    DrsPlan.delete().execute()
    assert scheduler.next_time(cluster(), monday) == saturday
    assert scheduler.next_time(cluster(), saturday + datetime.timedelta(minutes=30)) == monday
    later = scheduler.next_time(cluster(), saturday + datetime.timedelta(hours=1))
    assert later == saturday + datetime.timedelta(days=7)


def test_a_host_that_comes_into_service_brings_a_plan_forward(site: Site) -> None:
    tune(site, {"drs.automatic.enable": "true", "drs.automatic.interval": "60"})
    scheduler.tick(now())
    plan: Any = DrsPlan.get()
    hour, minutes = datetime.timedelta(hours=1), datetime.timedelta(minutes=5)
    assert scheduler.next_time(cluster()) == plan.state_time + hour
    h3 = site.host("h3")
    manage_hosts.set_maintenance(h3, True, "", "root")
    assert scheduler.next_time(cluster()) == plan.state_time + hour, "a host that leaves brings nothing"
    manage_hosts.set_maintenance(h3, False, "", "root")
    left: Any = Event.select().where(Event.type == "host.maintenance").order_by(Event.create_time.desc()).first()
    assert scheduler.next_time(cluster()) == left.create_time + minutes
    joined = plan.state_time + datetime.timedelta(minutes=20)
    Host.update(state_time=joined).where(Host.name == "h2").execute()
    assert scheduler.next_time(cluster()) == joined + minutes, "the host that came last has to stay as well"
    Host.update(state_time=plan.state_time + 2 * hour).where(Host.name == "h2").execute()
    assert scheduler.next_time(cluster()) == plan.state_time + hour, "never later than the interval"
    DrsPlan.update(state="failed").execute()
    assert scheduler.next_time(cluster()) == plan.state_time + 2 * hour, "hosts do not shorten the wait after a failure"
    Host.update(state_time=joined - hour).where(Host.name == "h2").execute()
    Event.delete().where(Event.type == "host.maintenance").execute()


MINUTE = datetime.timedelta(minutes=1)


def checked_until(time: datetime.datetime, minutes: int) -> datetime.datetime:
    """The scheduler once a minute, as many times; when it ended."""
    for _ in range(minutes):
        time += MINUTE
        scheduler.tick(time)
    return time


def test_an_imbalance_must_last_before_a_plan_acts(site: Site, engine: Engine) -> None:
    pile(site, engine, 6)
    tune(site, {"drs.automatic.enable": "true", "drs.automatic.hold": "5"})
    start = now()
    scheduler.tick(start)
    assert scheduler.next_time(cluster(), start) == start + 5 * MINUTE
    assert "unbalanced since" in drs_plans.status(cluster()).explanation
    time = checked_until(start, 3)
    tune(site, {"drs.imbalance": "0"})
    time = checked_until(time, 1)
    assert (DrsCondition.select().count(), DrsPlan.select().count()) == (0, 1), "balanced: a plan without moves"
    tune(site, {"drs.imbalance": "1.0"})
    DrsPlan.delete().execute()
    time = checked_until(time, 5)
    assert DrsPlan.select().count() == 0, "it begins anew"
    time = checked_until(time, 1)
    plan: Any = DrsPlan.get()
    assert outcome(engine, Operation.get_by_id(plan.operation_id)) == OK
    assert spread() == {"h1": 2, "h2": 2, "h3": 2}


def test_a_condition_that_was_not_checked_for_long_begins_anew(site: Site, engine: Engine) -> None:
    pile(site, engine, 6)
    tune(site, {"drs.automatic.enable": "true", "drs.automatic.hold": "20"})
    start = now()
    scheduler.tick(start)
    scheduler.tick(start + 30 * MINUTE)
    assert DrsPlan.select().count() == 0
    assert scheduler.next_time(cluster(), start) == start + 50 * MINUTE


def load(site: Site, name: str, cpus: float, vms: list[Any], time: datetime.datetime) -> None:
    """What a host and, in equal parts, these VMs of it use."""
    at_s = time.replace(tzinfo=datetime.UTC).timestamp()
    each = {vm.id: (cpus / max(len(vms), 1), float(1 << 20), 0.0) for vm in vms}
    found = Smooth(cpu_used=cpus, memory_bytes=float(1 << 20), samples=9, time_s=at_s, vms=each)
    Host.update(smooth_load=found.to_json()).where(Host.name == name).execute()


def test_a_host_that_stays_hot_brings_a_plan_forward_that_relieves_it(site: Site, engine: Engine) -> None:
    made = pile(site, engine, 4)
    tune(site, {"drs.automatic.enable": "true", "drs.automatic.hold": "5", "drs.imbalance": "0"})
    scheduler.tick(now())
    first: Any = DrsPlan.get()
    assert (first.state, first.explanation[:8]) == ("completed", "balanced")
    cpus = site.host("h1").cpus
    time = first.state_time + MINUTE
    for _ in range(6):
        load(site, "h1", 0.95 * cpus, made, time)
        for other in ("h2", "h3"):
            load(site, other, 0.1 * cpus, [], time)
        scheduler.tick(time)
        time += MINUTE
    plan: Any = DrsPlan.select().where(DrsPlan.id != first.id).get()
    assert outcome(engine, Operation.get_by_id(plan.operation_id)) == OK
    assert "host h1 uses 95% of its CPUs (drs.hot.threshold 0.9)" in plan.explanation
    assert [move.source_name for move in store.moves_of(plan.id)] == ["h1"], "no more than it takes"
    DrsPlan.update(state_time=time).where(DrsPlan.id == plan.id).execute()  # it ended by the test's clock
    assert scheduler.next_time(cluster(), time) == time + 60 * MINUTE, "once, not again and again"


def test_shadow_mode_records_what_it_would_gain_and_moves_nothing(site: Site, engine: Engine) -> None:
    pile(site, engine, 4)
    before = spread()
    tune(site, {"drs.automatic.enable": "true", "drs.automatic.shadow": "true"})
    scheduler.tick(now())
    (plan,) = DrsPlan.select()
    assert (plan.state, plan.type, spread()) == ("completed", "automated", before)
    assert set(states(plan)) == {"cancelled"}
    assert "moves would have changed imbalance" in plan.outcome
    assert Event.select().where(Event.type == "drs.shadow").count() == 1
    due = scheduler.next_time(cluster())
    assert due == plan.state_time + datetime.timedelta(minutes=60)


def test_a_snapshot_takes_a_handful_of_queries(site: Site, engine: Engine) -> None:
    pile(site, engine, 3)
    counted: list[int] = []
    for _ in range(2):
        statements: list[str] = []
        execute = db.obj.execute_sql

        def noting(sql: str, *args: Any, statements: list[str] = statements, execute: Any = execute) -> Any:
            statements.append(sql)
            return execute(sql, *args)

        db.obj.execute_sql = noting
        try:
            snapshot.take(cluster())
        finally:
            del db.obj.execute_sql
        counted.append(len(statements))
        pile(site, engine, 3, prefix=f"more{len(counted)}-")
    assert counted[0] == counted[1] <= 16


@pytest.mark.slow
def test_a_plan_killed_again_and_again_ends_right(tmp_path: Path) -> None:
    """No move is lost, made twice, or told done when it was not."""
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url:
        site = new_site(url, tmp_path)
        with site_in_runner(site, 0) as process:
            made = []
            for number in range(6):
                with transaction():
                    made.append(site.new_vm(f"vm{number}", offering=site.plain, host=site.host("h1")))
            wait_until(lambda: all(fresh(row).state == "succeeded" for row in made), 60)
            process.kill()
        tune(site, {"drs.imbalance": "1.0", "drs.cost.weight": "0"})
        plan = planned()
        with transaction():
            operation: Any = drs_plans.execute(plan, "ada")
        kills = 0
        for point in (2, 3, 5, 6, 8, 11, 14, 17):
            with site_in_runner(site, point) as process:
                wait_until(lambda: process.poll() is not None or fresh(operation).state == "succeeded", 60)
                kills += process.poll() == -signal.SIGKILL
                process.kill()
        assert kills >= 5
        with site_in_runner(site, 0) as process:
            wait_until(lambda: fresh(operation).state != "running" and fresh(operation).state != "pending", 60)
            process.kill()
        assert (fresh(operation).state, fresh(plan).state, states(plan)) == ("succeeded", "completed", {"done": 4})
        assert spread() == {"h1": 2, "h2": 2, "h3": 2}
        assert Operation.select().where(Operation.verb == "vm.migrate").count() == 4
        assert site.hosts["h1"].calls.count("MigrateVm") == 4
        site.check_whole()
        site.fleet.stop()


def site_in_runner(site: Site, point: int) -> Any:
    command = [sys.executable, "-m", "tests.drs_runner", site.url, str(site.state_dir), str(point)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT)
