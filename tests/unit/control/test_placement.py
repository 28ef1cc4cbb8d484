from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_common.errors import FailedPreconditionError
from ostler_control.models import HostState
from ostler_control.placement import (
    Demand,
    HostFacts,
    PoolFacts,
    choose_pools,
    explain,
    place,
    refusal,
)
from ostler_control.placement.words import WORDS, in_words

GIB = 1 << 30

GOOD = HostFacts(
    id="a",
    name="h1",
    cluster_id="c1",
    zone_id="z1",
    hypervisor_type="kvm",
    state=HostState.UP,
    enabled=True,
    maintenance=False,
    volume_encryption=True,
    uefi=True,
    bridges=frozenset({"br0"}),
    usable_cpus=8,
    usable_memory_bytes=16 * GIB,
    free_cpus=8,
    free_memory_bytes=16 * GIB,
    pools=frozenset({"p1"}),
    secure_boot=True,
)
EVERYTHING = Demand(
    name="web1",
    cpus=2,
    memory_bytes=GIB,
    volume_encryption=True,
    uefi=True,
    secure_boot=True,
    hypervisor_type="kvm",
    zone_id="z1",
    cluster_id="c1",
    host_id="a",
    bridges=frozenset({"br0"}),
    pool_choices=(("p1", "p2"),),
)


def test_a_good_host_takes_everything() -> None:
    assert refusal(EVERYTHING, GOOD) is None
    placement = place(EVERYTHING, [GOOD])
    assert (placement.host_id, placement.host_name, placement.pool_ids) == ("a", "h1", ("p1",))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": "b"}, "EXCLUDED_BY_REQUEST"),
        ({"cluster_id": "c2"}, "EXCLUDED_BY_REQUEST"),
        ({"zone_id": "z2"}, "EXCLUDED_BY_REQUEST"),
        ({"state": HostState.DISCONNECTED}, "NOT_UP"),
        ({"state": HostState.CONNECTING}, "NOT_UP"),
        ({"enabled": False}, "DISABLED"),
        ({"maintenance": True}, "IN_MAINTENANCE"),
        ({"hypervisor_type": "xen"}, "OTHER_HYPERVISOR_TYPE"),
        ({"volume_encryption": False}, "LACKS_VOLUME_ENCRYPTION"),
        ({"uefi": False}, "LACKS_UEFI"),
        ({"secure_boot": False}, "LACKS_SECURE_BOOT"),
        ({"bridges": frozenset({"br1"})}, "LACKS_BRIDGE"),
        ({"pools": frozenset({"p3"})}, "LACKS_POOL"),
        ({"free_cpus": 1}, "LACKS_CPUS"),
        ({"free_cpus": -3}, "LACKS_CPUS"),
        ({"free_memory_bytes": GIB - 1}, "LACKS_MEMORY"),
    ],
)
def test_one_thing_amiss_is_refused_by_its_name(change: dict[str, object], code: str) -> None:
    no = refusal(EVERYTHING, GOOD._replace(**change))  # type: ignore[arg-type]
    assert no is not None
    assert no.code == code
    assert code in WORDS
    assert no.explanation


def test_who_asks_for_less_is_refused_less() -> None:
    bare = HostFacts("a", "h", "c", "z", "xen", HostState.UP, True, False, False, False, frozenset(), 1, GIB, 1, GIB)
    assert refusal(Demand("x", cpus=1, memory_bytes=GIB), bare) is None
    assert refusal(Demand("x"), bare) is None


def test_a_vm_does_not_migrate_to_where_it_is() -> None:
    no = refusal(Demand("x", excluded_host_id="a"), GOOD)
    assert no is not None
    assert no.code == "ALREADY_THERE"


@pytest.mark.parametrize("others", [0, 5])
def test_encryption_is_asked_for_also_of_the_host_named_by_the_caller_and_of_the_last_one(others: int) -> None:
    incapable = GOOD._replace(volume_encryption=False)
    down = [GOOD._replace(id=f"x{number}", state=HostState.DISCONNECTED) for number in range(others)]
    demand = Demand("web1", cpus=1, memory_bytes=1, volume_encryption=True, preferred_host_id="a")
    for host_id in ("a", ""):
        with pytest.raises(FailedPreconditionError) as caught:
            place(dataclasses.replace(demand, host_id=host_id), [incapable, *down])
        assert caught.value.metadata["LACKS_VOLUME_ENCRYPTION"] == "1"


def test_refusals_are_counted_and_put_into_words() -> None:
    no_encryption = [GOOD._replace(id=f"e{number}", volume_encryption=False) for number in range(3)]
    no_memory = [GOOD._replace(id=f"m{number}", free_memory_bytes=0) for number in range(2)]
    elsewhere = [GOOD._replace(id="o", zone_id="z2")]
    demand = dataclasses.replace(EVERYTHING, host_id="")
    with pytest.raises(FailedPreconditionError) as caught:
        place(demand, no_encryption + no_memory + elsewhere)
    error = caught.value
    assert error.message == "no host fits web1: 3 lack volume encryption, 2 lack memory"
    assert error.reason == "NO_FEASIBLE_HOST"
    assert error.metadata == {
        "name": "web1",
        "EXCLUDED_BY_REQUEST": "1",
        "LACKS_VOLUME_ENCRYPTION": "3",
        "LACKS_MEMORY": "2",
    }


def test_words_for_one_for_none_asked_for_and_for_an_empty_fleet() -> None:
    assert in_words({"LACKS_MEMORY": 1, "NOT_UP": 1}) == "1 lacks memory, 1 is not up"
    assert in_words({"EXCLUDED_BY_REQUEST": 2}) == "2 are excluded by the request"
    with pytest.raises(FailedPreconditionError, match="there is no host yet"):
        place(Demand("x"), [])


def test_the_emptiest_host_is_chosen_and_of_equals_the_first_id() -> None:
    full = GOOD._replace(id="a", free_memory_bytes=4 * GIB)
    equal = [GOOD._replace(id=name) for name in ("d", "b", "c")]
    demand = Demand("x", cpus=1, memory_bytes=GIB)
    assert place(demand, [full, *equal]).host_id == "b"
    assert [found.host_id for found in explain(demand, [full, *equal])] == ["b", "c", "d", "a"]


def test_the_preferred_host_is_chosen_if_it_fits() -> None:
    busy = GOOD._replace(id="z", free_memory_bytes=2 * GIB, free_cpus=1)
    demand = Demand("x", cpus=1, memory_bytes=GIB, preferred_host_id="z")
    assert place(demand, [GOOD, busy]).host_id == "z"
    assert place(demand, [GOOD, busy._replace(state=HostState.DISCONNECTED)]).host_id == "a"


def test_volume_work_goes_to_the_least_loaded_capable_host_that_reaches_the_pool() -> None:
    demand = Demand("data", volume_encryption=True, pool_choices=(("p1",),))
    hosts = [
        GOOD._replace(id="busy", free_memory_bytes=GIB, free_cpus=0),
        GOOD._replace(id="idle"),
        GOOD._replace(id="incapable", volume_encryption=False, usable_cpus=99, free_cpus=99),
        GOOD._replace(id="far", pools=frozenset()),
    ]
    assert place(demand, hosts).host_id == "idle"
    assert place(demand, hosts[:1]).host_id == "busy"  # a host that is full still has hands


def test_each_disk_gets_its_best_pool_that_the_host_reaches() -> None:
    host = GOOD._replace(pools=frozenset({"local", "data"}))
    demand = Demand("x", pool_choices=(("shared", "local"), ("data",)))
    assert place(demand, [host]).pool_ids == ("local", "data")


def test_an_explanation_names_every_host() -> None:
    hosts = [
        GOOD._replace(id=str(number), state=state)
        for number, state in enumerate((HostState.UP, HostState.CONNECTING, HostState.UP))
    ]
    found = explain(Demand("x"), hosts)
    assert [(candidate.host_id, candidate.refusal is None) for candidate in found] == [
        ("0", True),
        ("2", True),
        ("1", False),
    ]
    assert found[2].refusal is not None
    assert found[2].refusal.explanation == "it is connecting"


def test_pools_for_a_new_disk() -> None:
    pools = [
        PoolFacts("small", "n", shared=True, encryption=True, available_bytes=5),
        PoolFacts("plain", "n", shared=True, encryption=False, available_bytes=99),
        PoolFacts("local", "n", shared=False, encryption=True, available_bytes=99),
        PoolFacts("shared", "n", shared=True, encryption=True, available_bytes=50),
    ]
    assert choose_pools("d", 10, True, pools) == ("shared", "local")
    assert choose_pools("d", 5, False, pools) == ("plain", "shared", "small", "local")
    with pytest.raises(FailedPreconditionError) as caught:
        choose_pools("web1's root disk", 60, True, pools[:2])
    assert caught.value.message == (
        "no storage pool fits web1's root disk: 1 cannot hold encrypted volumes, 1 lacks space"
    )
    assert caught.value.reason == "NO_FEASIBLE_POOL"
    with pytest.raises(FailedPreconditionError, match="no host reaches any"):
        choose_pools("d", 1, False, [])


_ids = st.sampled_from(["", "1", "2"])
_hosts = st.lists(
    st.builds(
        HostFacts,
        id=st.uuids().map(str),
        name=st.just("h"),
        cluster_id=st.sampled_from(["1", "2"]),
        zone_id=st.sampled_from(["1", "2"]),
        hypervisor_type=st.sampled_from(["kvm", "xen"]),
        state=st.sampled_from(["up", "up", "up", "disconnected"]),
        enabled=st.sampled_from([True, True, False]),
        maintenance=st.sampled_from([False, False, True]),
        volume_encryption=st.booleans(),
        uefi=st.booleans(),
        bridges=st.frozensets(st.sampled_from(["br0", "br1"])),
        usable_cpus=st.integers(0, 64),
        usable_memory_bytes=st.integers(0, 64),
        free_cpus=st.integers(-8, 64),
        free_memory_bytes=st.integers(-8, 64),
        pools=st.frozensets(st.sampled_from(["1", "2"])),
    ),
    max_size=12,
    unique_by=lambda host: host.id,
)
_demands = st.builds(
    Demand,
    name=st.just("x"),
    cpus=st.integers(0, 8),
    memory_bytes=st.integers(0, 16),
    volume_encryption=st.booleans(),
    uefi=st.booleans(),
    hypervisor_type=st.sampled_from(["", "kvm"]),
    zone_id=_ids,
    cluster_id=_ids,
    bridges=st.frozensets(st.sampled_from(["br0"])),
    pool_choices=st.sampled_from([(), (("1",),), (("1", "2"),), (("1",), ("2",))]),
)


@given(_demands, _hosts, st.randoms(use_true_random=False))
def test_the_answer_does_not_depend_on_the_order_of_hosts_and_refusals_sum_up(
    demand: Demand, hosts: list[HostFacts], chance: random.Random
) -> None:
    shuffled = list(hosts)
    chance.shuffle(shuffled)
    found = explain(demand, shuffled)
    assert len(found) == len(hosts)
    if any(candidate.refusal is None for candidate in found):
        placement = place(demand, hosts)
        assert place(demand, shuffled) == placement
        assert (found[0].host_id, found[0].score) == (placement.host_id, placement.score)
        return
    with pytest.raises(FailedPreconditionError) as one:
        place(demand, hosts)
    with pytest.raises(FailedPreconditionError) as other:
        place(demand, shuffled)
    assert other.value.message == one.value.message
    assert sum(int(number) for code, number in one.value.metadata.items() if code in WORDS) == len(hosts)


@given(_hosts, st.lists(_demands, max_size=60))
def test_placing_one_after_another_never_overfills(hosts: list[HostFacts], demands: list[Demand]) -> None:
    state = {host.id: host for host in hosts}
    for demand in demands:
        try:
            chosen = state[place(demand, state.values()).host_id]
        except FailedPreconditionError:
            continue
        assert chosen.volume_encryption or not demand.volume_encryption
        after = chosen.with_vm(demand.cpus, demand.memory_bytes)
        assert after.free_cpus >= min(0, chosen.free_cpus)
        assert after.free_memory_bytes >= min(0, chosen.free_memory_bytes)
        state[chosen.id] = after
