"""Affinity groups: what they mean for a host, and that placements at once keep to them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, OstlerError
from ostler_control import database
from ostler_control.models import AffinityMember, Cluster, Host, HostState, Vm
from ostler_control.placement import AffinityRules, Demand, HostFacts, explain, refusal
from ostler_control.scheduling import affinity, placement_query

from tests.fleets import GIB, make_fleet

NOTHING: frozenset[str] = frozenset()
UP = {"a", "b", "c"}


def hosts(*ids: str) -> frozenset[str]:
    return frozenset(ids)


@pytest.mark.parametrize(
    ("groups", "rules"),
    [
        ([], AffinityRules()),
        ([("anti_affinity", True, {"a", "z"})], AffinityRules(apart=hosts("a", "z"))),
        ([("anti_affinity", False, {"a"})], AffinityRules(avoid=hosts("a"))),
        ([("affinity", True, {"a", "b"})], AffinityRules(together=(hosts("a", "b"),))),
        ([("affinity", True, set())], AffinityRules()),
        # z is silent or being emptied: they gather elsewhere.
        ([("affinity", True, {"z"})], AffinityRules()),
        ([("affinity", True, {"z", "a"})], AffinityRules(together=(hosts("a"),))),
        ([("affinity", False, {"z", "a"})], AffinityRules(prefer=hosts("a"))),
        # Hosts that a group names bind also while they are silent.
        ([("run_on", True, {"z", "a"})], AffinityRules(required=(hosts("a", "z"),))),
        ([("run_on", False, {"a"})], AffinityRules(prefer=hosts("a"))),
        ([("not_run_on", True, {"a"})], AffinityRules(forbidden=hosts("a"))),
        ([("not_run_on", False, {"a"})], AffinityRules(avoid=hosts("a"))),
        (
            [("affinity", True, {"a"}), ("affinity", True, {"b"}), ("anti_affinity", True, {"c"})],
            AffinityRules(apart=hosts("c"), together=(hosts("a"), hosts("b"))),
        ),
    ],
)
def test_what_groups_ask_of_a_host(groups: list[tuple[str, bool, set[str]]], rules: AffinityRules) -> None:
    assert affinity.affinity_rules(groups, UP) == rules


def facts(host_id: str) -> HostFacts:
    return HostFacts(
        host_id, host_id, "", "", "kvm", HostState.UP, True, False, True, True, NOTHING, 8, 8 * GIB, 8, 8 * GIB
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "codes"),
    [
        (AffinityRules(apart=hosts("a")), ["ANTI_AFFINITY", "", ""]),
        (AffinityRules(together=(hosts("a", "b"),)), ["", "", "AFFINITY"]),
        (AffinityRules(together=(hosts("a"), hosts("b"))), ["AFFINITY", "AFFINITY", "AFFINITY"]),
        (AffinityRules(avoid=hosts("a"), prefer=hosts("b")), ["", "", ""]),
    ],
)
def test_the_filter(rules: AffinityRules, codes: list[str]) -> None:
    demand = Demand("vm", cpus=1, affinity=rules)
    found = [refusal(demand, facts(host_id)) for host_id in ("a", "b", "c")]
    assert [no.code if no else "" for no in found] == codes


def test_preferences_only_weigh() -> None:
    demand = Demand("vm", cpus=1, affinity=AffinityRules(avoid=hosts("a"), prefer=hosts("c")))
    assert [found.host_id for found in explain(demand, map(facts, "abc"))] == ["c", "b", "a"]


def test_placements_at_once_keep_a_strict_group_apart(fresh_database: str) -> None:
    fleet = make_fleet(3)
    group = affinity.create("apart", fleet.account, affinity.ANTI_AFFINITY, True, "root")
    rows = [fleet.vm(f"vm{number}") for number in range(8)]
    for row in rows:
        with database.transaction():
            affinity.put(row, [group])
    refused: list[str] = []
    start = threading.Barrier(len(rows))

    def place(vm: Vm) -> None:
        start.wait()
        try:
            with database.transaction():
                placement_query.find_and_claim(vm, placement_query.demand_of(vm))
        except OstlerError as error:
            refused.append(error.reason)

    threads = [threading.Thread(target=place, args=(row,)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows_placed: list[Any] = list(Vm.select().where(Vm.host.is_null(False)))
    placed = [row.host_id for row in rows_placed]
    assert len(placed) == len(set(placed)) == 3
    assert refused == ["NO_FEASIBLE_HOST"] * 5


def test_a_vm_on_its_way_counts_at_both_ends_and_one_out_of_service_at_none(fresh_database: str) -> None:
    fleet = make_fleet(4)
    apart = affinity.create("apart", fleet.account, affinity.ANTI_AFFINITY, True, "root")
    together = affinity.create("together", fleet.account, affinity.AFFINITY, True, "root")
    one, other = fleet.vm("one"), fleet.vm("other")
    for row in (one, other):
        affinity.put(row, [apart])
    ids = [host.id for host in fleet.hosts]
    Vm.update(host=ids[0], destination=ids[1]).where(Vm.id == one.id).execute()
    assert affinity.affinity_rules_of(other) == AffinityRules(apart=hosts(ids[0], ids[1]))
    for row in (one, other):
        affinity.put(row, [together])
    assert affinity.affinity_rules_of(other) == AffinityRules(together=(hosts(ids[0], ids[1]),))
    Host.update(maintenance=True).where(Host.id == ids[0]).execute()
    assert affinity.affinity_rules_of(other) == AffinityRules(together=(hosts(ids[1]),))
    Cluster.update(enabled=False).execute()
    assert affinity.affinity_rules_of(other) == AffinityRules()
    affinity.put(other, [])
    assert affinity.affinity_rules_of(other) is None
    affinity.delete(together, "root")
    assert AffinityMember.select().count() == 0


def test_names_and_accounts(fresh_database: str) -> None:
    fleet = make_fleet(1)
    group = affinity.create("g", fleet.account, affinity.AFFINITY, False, "root")
    with pytest.raises(AlreadyExistsError, match="affinity group g"):
        affinity.create("g", fleet.account, affinity.AFFINITY, True, "root")
    stranger = type(fleet.account).create(name="stranger")
    alien = affinity.create("g", stranger, affinity.AFFINITY, True, "root")
    vm = fleet.vm("vm")
    with pytest.raises(FailedPreconditionError) as caught:
        affinity.put(vm, [group, alien])
    assert caught.value.reason == "OTHER_ACCOUNT"
    affinity.put(vm, [group])
    assert {name: [row.name for row in rows] for name, rows in affinity.groups_of([vm.id]).items()} == {vm.id: ["g"]}
    assert [row.name for row in affinity.members_of([group.id])[group.id]] == ["vm"]
