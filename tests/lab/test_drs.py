"""DRS with real guests: ten VMs piled on one host are levelled, then packed, and a pair is never together."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from ostler.control.v1 import affinity_pb2, drs_pb2, host_pb2, offering_pb2, operation_pb2, setting_pb2, vm_pb2

from tests.lab.fleet import CLUSTER, MIB, SHARED_POOL, Fleet, fresh, refused
from tests.lab.host import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

OFFERING, PAIR = "mini", "pair"
MEMORY_MIB = 96  # the guest's kernel does not start with less
PILE = [f"pile-{number}" for number in range(10)]
LONER = "loner"  # is to be apart from the first of the pile
EVERY = [*PILE, LONER]
PLAN_S = 180.0


def create(fleet: Fleet, name: str, host: str) -> lro.Operation:
    groups = [PAIR] if name in (PILE[0], LONER) else []
    request = vm_pb2.CreateVmRequest(
        request_id=fresh(), name=name, template="tiny", service_offering=OFFERING, pool=SHARED_POOL, host=host,
        affinity_groups=groups,
    )  # fmt: skip
    return fleet.api.vms.CreateVm(request)


@contextmanager
def settings(fleet: Fleet, values: dict[str, str]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(fleet.setting(name, value))
        yield


@pytest.fixture(scope="module")
def pile(fleet: Fleet) -> Iterator[Fleet]:
    """The pile on h1, the loner on h2; DRS as eager as can be."""
    fleet.api.offerings.CreateServiceOffering(
        offering_pb2.CreateServiceOfferingRequest(
            request_id=fresh(), name=OFFERING, cpus=1, memory_bytes=MEMORY_MIB * MIB
        )
    )
    fleet.api.affinity.CreateAffinityGroup(
        affinity_pb2.CreateAffinityGroupRequest(
            request_id=fresh(), name=PAIR, kind=affinity_pb2.AffinityGroup.ANTI_AFFINITY
        )
    )
    for name in [vm.name for vm in fleet.vms()]:
        fleet.delete_vm(name)
    for operation in [create(fleet, name, "h2" if name == LONER else "h1") for name in EVERY]:
        fleet.do(operation)
    for name in EVERY:
        with fleet.console(name) as console:
            console.wait(r"tick \d+", 120)
    with settings(fleet, {"drs.imbalance": "1.0", "drs.cost.weight": "0", "drs.vm.cooldown": "0"}):
        yield fleet
    for name in EVERY:
        fleet.delete_vm(name)
    fleet.api.affinity.DeleteAffinityGroup(affinity_pb2.DeleteAffinityGroupRequest(group=PAIR))


@contextmanager
def never_together(fleet: Fleet) -> Iterator[None]:
    """Looks at the hypervisors all the while: the pair shares no host, not even for a moment of a migration."""
    ids = {fleet.vm(name).id for name in (PILE[0], LONER)}
    over, together, looks = threading.Event(), [], 0

    def look() -> None:
        nonlocal looks
        while not over.wait(0.5):
            for host in fleet.lab.hosts:
                there = ids & set(host.virsh("list", "--uuid").split())
                if len(there) > 1:
                    together.append(host.name)
            looks += 1

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert looks
    assert together == []


def ticks(fleet: Fleet) -> dict[str, int]:
    """What every guest counts now."""
    with ExitStack() as stack:
        consoles = {name: stack.enter_context(fleet.console(name)) for name in EVERY}
        return {name: console.tick() for name, console in consoles.items()}


def counts(fleet: Fleet) -> dict[str, int]:
    """How many of the VMs each host executes, as the hypervisors say."""
    ids = {fleet.vm(name).id for name in EVERY}
    return {host.name: len(ids & set(host.virsh("list", "--uuid").split())) for host in fleet.lab.hosts}


def plan_of(fleet: Fleet, name: str) -> drs_pb2.DrsPlan:
    return fleet.api.drs.GetPlan(drs_pb2.GetPlanRequest(plan=name))


def generate(fleet: Fleet) -> drs_pb2.DrsPlan:
    """By the command, as people do."""
    answer = json.loads(fleet.lab.control.ostler("drs", "generate", CLUSTER, "-o", "json"))
    return plan_of(fleet, answer["id"])


def execute(fleet: Fleet, plan: drs_pb2.DrsPlan) -> lro.Operation:
    return fleet.api.drs.ExecutePlan(drs_pb2.ExecutePlanRequest(request_id=fresh(), plan=plan.id))


def moved(plan: drs_pb2.DrsPlan) -> Counter[str]:
    return Counter(drs_pb2.DrsMove.State.Name(move.state) for move in plan.moves)


def migrations(fleet: Fleet, plan: drs_pb2.DrsPlan) -> list[str]:
    """The states of the operations that made the plan's moves, one a VM."""
    found = []
    for move in plan.moves:
        listed = fleet.api.operations.ListOperations(lro.ListOperationsRequest(filter=f"resource={move.vm_id}"))
        own = [operation for operation in listed.operations if operation.name == move.operation]
        assert len(own) == 1, move.vm_name
        found.append(operation_pb2.OperationMetadata.State.Name(fleet.metadata(own[0]).state))
    return found


def test_balanced_levels_a_pile_while_its_guests_count_on(pile: Fleet) -> None:
    assert counts(pile) == {"h1": 10, "h2": 1, "h3": 0}
    before = ticks(pile)
    plan = generate(pile)
    assert plan.state == drs_pb2.DrsPlan.UNDER_REVIEW
    assert plan.imbalance_before > 1.0
    assert "plan-" in pile.lab.control.ostler("drs", "list", "--cluster", CLUSTER)
    with never_together(pile):
        pile.do(execute(pile, plan), PLAN_S)
    plan = plan_of(pile, plan.id)
    assert (plan.state, set(moved(plan))) == (drs_pb2.DrsPlan.COMPLETED, {"DONE"})
    assert sorted(counts(pile).values()) == [3, 4, 4]
    after = ticks(pile)
    assert all(after[name] > before[name] for name in EVERY), "a guest began anew"
    status = pile.api.drs.GetClusterStatus(drs_pb2.GetClusterStatusRequest(cluster=CLUSTER))
    assert status.imbalance == pytest.approx(plan.imbalance_after)
    assert status.imbalance < 0.2
    shown = pile.lab.control.ostler("drs", "status", CLUSTER)
    assert all(host.name in shown for host in pile.lab.hosts)


def test_a_pair_that_must_be_apart_is_not_brought_together_by_hand(pile: Fleet) -> None:
    other = pile.vm(LONER).host_name
    error = refused(pile.migrate, PILE[0], other)
    assert "apart" in error.message
    request = drs_pb2.ExecuteMappingRequest(
        request_id=fresh(), cluster=CLUSTER, moves=[drs_pb2.ExecuteMappingRequest.Move(vm=PILE[0], host=other)]
    )
    assert refused(pile.api.drs.ExecuteMapping, request).reason == "MOVE_REFUSED"


def test_condensed_empties_a_host_though_the_control_plane_is_killed_in_mid_plan(pile: Fleet) -> None:
    before = ticks(pile)
    wanted = {"drs.algorithm": "condensed", "drs.max.parallel.per.cluster": "1"}
    with settings(pile, wanted), never_together(pile):
        plan = generate(pile)
        assert len(plan.moves) >= 3, plan.explanation
        operation = execute(pile, plan)
        wait_for(lambda: moved(plan_of(pile, plan.id))["DONE"], "a first move", PLAN_S, 0.2)
        pile.lab.control.stop(signal.SIGKILL)
        pile.start_control()
        pile.do(operation, PLAN_S)
    plan = plan_of(pile, plan.id)
    assert (plan.state, set(moved(plan))) == (drs_pb2.DrsPlan.COMPLETED, {"DONE"})
    assert set(migrations(pile, plan)) == {"SUCCEEDED"}
    found = counts(pile)
    assert sum(found.values()) == len(EVERY)
    assert min(found.values()) == 0
    for name in EVERY:
        pile.assert_runs_once(name)
    after = ticks(pile)
    assert all(after[name] > before[name] for name in EVERY), "a guest began anew"


def test_maintenance_empties_a_host_and_says_who_cannot_leave(pile: Fleet) -> None:
    # Of the pair each is on one of two hosts; with the third disabled, one of them has nowhere to go.
    home = pile.vm(LONER).host_name
    spare = next(host.name for host in pile.lab.hosts if host.name not in (home, pile.vm(PILE[0]).host_name))
    ostler = pile.lab.control.ostler
    ostler("host", "disable", spare)
    ostler("host", "maintenance", "enter", home, check=False, timeout_s=PLAN_S)
    try:
        left = [vm.name for vm in pile.vms() if vm.host_name == home]
        assert left == [LONER]
        last = pile.api.drs.ListPlans(drs_pb2.ListPlansRequest(cluster=CLUSTER, page_size=1)).plans[0]
        last = plan_of(pile, last.id)
        assert last.state == drs_pb2.DrsPlan.PARTIAL
        assert [vm.name for vm in last.left_vms] == [LONER]
        ostler("host", "enable", spare)
        ostler("host", "maintenance", "enter", home, timeout_s=PLAN_S)
        assert [vm.name for vm in pile.vms() if vm.host_name == home] == []
    finally:
        ostler("host", "enable", spare)
        ostler("host", "maintenance", "leave", home, "--bring-back", timeout_s=PLAN_S)
    assert pile.vm(LONER).host_name == home
    assert pile.host(pile.lab.host(home)).state == host_pb2.Host.UP


def test_settings_of_drs_are_validated(pile: Fleet) -> None:
    request = setting_pb2.UpdateSettingRequest(name="drs.imbalance", value="2", cluster=CLUSTER)
    with pytest.raises(grpc.RpcError):
        pile.api.settings.UpdateSetting(request)


def test_a_host_dies_in_mid_plan_and_every_vm_is_accounted_for(pile: Fleet) -> None:
    """The last one: what ran on that host is gone."""
    here = counts(pile)
    dying = pile.lab.host(min(here, key=lambda name: here[name]))
    lost = [vm.name for vm in pile.vms() if vm.host_name == dying.name]
    going = [name for name in PILE[1:] if name not in lost][:4]
    request = drs_pb2.ExecuteMappingRequest(
        request_id=fresh(),
        cluster=CLUSTER,
        moves=[drs_pb2.ExecuteMappingRequest.Move(vm=name, host=dying.name) for name in going],
    )
    with settings(pile, {"drs.max.parallel.per.host": "1"}):
        operation = pile.api.drs.ExecuteMapping(request)
        plan_id = pile.metadata(operation).resource_id
        wait_for(lambda: moved(plan_of(pile, plan_id))["DONE"], "a first move", PLAN_S, 0.1)
        dying.kill()
        pile.wait_state(dying, host_pb2.Host.DISCONNECTED)
        wait_for(lambda: not moved(plan_of(pile, plan_id))["PENDING"], "the others' end", 60, 0.3)
        dying.boot()
        dying.start_libvirt()
        dying.start_agent()
        assert pile.error(operation, PLAN_S).reason == "PLAN_PARTIAL"
    pile.wait_up(dying)
    plan = plan_of(pile, plan_id)
    found = moved(plan)
    assert plan.state == drs_pb2.DrsPlan.PARTIAL
    assert found["DONE"] + found["FAILED"] + found["SKIPPED"] == len(going)
    assert found["DONE"] < len(going)
    for move in plan.moves:
        if move.state == drs_pb2.DrsMove.DONE:
            continue
        assert move.state_reason
        assert pile.assert_runs_once(move.vm_name) == move.source_name
    for vm in pile.vms():
        assert pile.processes(vm.id) == 1 or vm.host_name == dying.name, vm.name
