"""Which hosts are fenced: the rules, and what holds for every fleet."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_control.ha.decide import MAX_RETRY_S, Hold, HostFacts, Rules, decide, retry_s
from ostler_control.placement.reserve import Load, Room, shortfall
from ostler_control.states import FenceState, HostState

UP = HostFacts("h1", "c", HostState.UP, protected_vms=2, has_device=True)
DEAD = replace(UP, id="h0", state=HostState.DISCONNECTED, silent_s=90)
RETURNED = replace(DEAD, state=HostState.FENCED, fence=FenceState.OFF, heard=True, silent_s=0)
LOST_AGAIN = replace(RETURNED, fell_silent=True, silent_s=90)
LATE = replace(LOST_AGAIN, heard=False, late_starts=True)
RULES = {"c": Rules(True, 60, 3)}


def others(count: int) -> list[HostFacts]:
    return [replace(UP, id=f"h{number}") for number in range(1, count + 1)]


def hold_of(host: HostFacts, rules: Rules = RULES["c"], up: int = 3) -> Hold | None:
    [decision] = [one for one in decide([host, *others(up)], {"c": rules}) if one.host_id == host.id]
    return decision.hold


def test_a_host_that_is_silent_long_enough_is_fenced() -> None:
    assert hold_of(DEAD) is None


@pytest.mark.parametrize(
    ("host", "rules", "hold"),
    [
        (replace(DEAD, silent_s=59.9), RULES["c"], Hold.WAITING),
        (replace(DEAD, has_device=False), RULES["c"], Hold.NO_DEVICE),
        (replace(DEAD, protected_vms=0), RULES["c"], Hold.NO_VMS),
        (replace(DEAD, in_service=False), RULES["c"], Hold.MAINTENANCE),
        (replace(DEAD, state=HostState.FENCED, fence=FenceState.FENCING), RULES["c"], Hold.FENCING),
        (replace(DEAD, state=HostState.FENCED, fence=FenceState.OFF), RULES["c"], Hold.OFF),
        (replace(DEAD, state=HostState.FENCED, fence=FenceState.OFF, fell_silent=True), RULES["c"], Hold.OFF),
        (RETURNED, RULES["c"], Hold.RETURNED),
        (replace(LOST_AGAIN, silent_s=59.9), RULES["c"], Hold.WAITING),
        (replace(LOST_AGAIN, attempts=1, failed_s=59), RULES["c"], Hold.RETRY_LATER),
        (replace(LOST_AGAIN, has_device=False), RULES["c"], Hold.NO_DEVICE),
        (LOST_AGAIN, RULES["c"], None),
        (LOST_AGAIN, Rules(True, 60, 3, recent={"h0": 3}), Hold.RATE_LIMIT),
        (replace(LATE, fell_silent=False), RULES["c"], Hold.OFF),
        (replace(LATE, silent_s=59.9), RULES["c"], Hold.WAITING),
        (LATE, Rules(True, 60, 1, recent={"h0": 1}), None),
        (replace(DEAD, fence=FenceState.FAILED, attempts=1, failed_s=59), RULES["c"], Hold.RETRY_LATER),
        (replace(DEAD, fence=FenceState.FAILED, attempts=1, failed_s=61), RULES["c"], None),
        (replace(DEAD, fence=FenceState.FAILED, attempts=1, failed_s=-59), RULES["c"], Hold.RETRY_LATER),
        (replace(DEAD, fence=FenceState.FAILED, attempts=1, failed_s=-86400), RULES["c"], None),
        (DEAD, Rules(False, 60, 3), Hold.DISABLED),
        (DEAD, Rules(True, 60, 3, recent={"x": 1, "y": 0, "z": 1}), Hold.RATE_LIMIT),
        (DEAD, Rules(True, 60, 3, recent={"h0": 3}), Hold.RATE_LIMIT),
        (DEAD, Rules(True, 60, 3, recent={"x": 9, "y": 9}), None),
        (DEAD, Rules(True, 60, 3, recent={"h0": 2, "y": 9, "z": 9}), None),
        (DEAD, Rules(True, 60, 1, recent={"h0": 0}), None),
    ],
)
def test_a_silent_host_is_not_fenced_for_a_reason(host: HostFacts, rules: Rules, hold: Hold | None) -> None:
    assert hold_of(host, rules) is hold


def test_half_of_a_cluster_may_be_fenced_and_more_may_not() -> None:
    dead = [replace(DEAD, id=f"d{number}") for number in range(2)]
    assert [one.hold for one in decide([*dead, *others(2)], RULES)] == [None, None]
    assert {one.hold for one in decide([*dead, *others(1)], RULES)} == {Hold.TOO_MANY_SILENT}


def test_hosts_that_are_only_being_connected_count_as_missing() -> None:
    connecting = [replace(UP, id=f"k{number}", state=HostState.CONNECTING) for number in range(3)]
    assert hold_of(DEAD, up=3) is None
    assert [one.hold for one in decide([DEAD, *connecting, *others(3)], RULES)] == [Hold.TOO_MANY_SILENT]


def test_a_fleet_that_is_mostly_gone_holds_up_every_cluster() -> None:
    gone = [replace(DEAD, id=f"g{number}", cluster_id="other") for number in range(9)]
    rules = {**RULES, "other": Rules(True, 60, 3)}
    assert {one.hold for one in decide([DEAD, *others(3), *gone], rules)} == {Hold.TOO_MANY_SILENT}


def test_a_host_that_is_proved_off_does_not_hold_up_the_next() -> None:
    off = replace(DEAD, id="off", state=HostState.FENCED, fence=FenceState.OFF)
    assert [one.hold for one in decide([off, DEAD, *others(1)], RULES)] == [None, Hold.OFF]


def test_hosts_that_had_returned_and_are_silent_again_count_as_missing() -> None:
    again = [replace(LOST_AGAIN, id=f"r{number}") for number in range(3)]
    assert {one.hold for one in decide([*again, *others(2)], RULES)} == {Hold.TOO_MANY_SILENT}
    assert [one.hold for one in decide([*again, *others(3)], RULES)] == [None, None, None]
    assert hold_of(DEAD, up=1) is None
    returned = [replace(RETURNED, id=f"r{number}") for number in range(3)]
    assert [one.hold for one in decide([DEAD, *returned, *others(1)], RULES)] == [None, *[Hold.RETURNED] * 3]


def test_without_a_host_that_could_start_its_vms_a_host_is_not_fenced() -> None:
    in_maintenance = [replace(UP, id=f"m{number}", in_service=False) for number in range(4)]
    elsewhere = [replace(UP, id=f"e{number}", cluster_id="other") for number in range(4)]
    rules = {**RULES, "other": Rules(True, 60, 3)}
    assert [one.hold for one in decide([DEAD, *in_maintenance, *elsewhere], rules)] == [Hold.TOO_MANY_SILENT]


def test_hosts_with_more_protected_vms_are_fenced_first_and_the_limit_counts_them() -> None:
    dead = [replace(DEAD, id=f"d{number}", protected_vms=number + 1) for number in range(4)]
    decisions = decide([*dead, *others(9)], RULES)
    assert [one.host_id for one in decisions] == ["d3", "d2", "d1", "d0"]
    assert [one.hold for one in decisions] == [None, None, None, Hold.RATE_LIMIT]


def test_pauses_between_attempts_double_up_to_a_limit() -> None:
    assert [retry_s(attempts) for attempts in (1, 2, 3)] == [60, 120, 240]
    assert retry_s(1000) == MAX_RETRY_S


STATES = st.sampled_from([HostState.UP, HostState.CONNECTING, HostState.DISCONNECTED, HostState.FENCED])
HOSTS = st.builds(
    HostFacts,
    id=st.uuids().map(str),
    cluster_id=st.sampled_from(["c", "d"]),
    state=STATES,
    silent_s=st.floats(0, 200),
    in_service=st.booleans(),
    protected_vms=st.integers(0, 3),
    has_device=st.booleans(),
    fence=st.sampled_from([None, None, FenceState.FENCING, FenceState.FAILED, FenceState.OFF]),
    heard=st.booleans(),
    late_starts=st.booleans(),
    fell_silent=st.booleans(),
    attempts=st.integers(0, 3),
    failed_s=st.floats(0, 2000),
)


@given(
    st.lists(HOSTS, max_size=12, unique_by=lambda host: host.id),
    st.integers(1, 3),
    st.lists(st.integers(0, 4), max_size=12),
    st.integers(0, 3),
)
def test_for_every_fleet_what_is_fenced_is_silent_known_and_few(
    hosts: list[HostFacts], limit: int, counts: list[int], removed: int
) -> None:
    tried = {host.id: count for host, count in zip(hosts, counts, strict=False)} | dict.fromkeys("xyz"[:removed], 1)
    rules = {name: Rules(True, 60, limit, tried) for name in ("c", "d")}
    decisions = decide(hosts, rules)
    by_id = {host.id: host for host in hosts}
    fenced = [by_id[one.host_id] for one in decisions if one.fence]
    for host in fenced:
        assert host.state in (HostState.DISCONNECTED, HostState.FENCED)
        assert host.silent_s >= 60
        assert host.has_device
        assert host.protected_vms
        assert host.in_service
        assert host.fence is not FenceState.FENCING
        assert host.fence is not FenceState.OFF or ((host.heard or host.late_starts) and host.fell_silent)
        mates = [mate for mate in hosts if mate.cluster_id == host.cluster_id]
        assert any(mate.state is HostState.UP for mate in mates)
        left_out = [mate for mate in mates if mate.fence is FenceState.OFF and not (mate.heard and mate.fell_silent)]
        counted = [mate for mate in mates if mate.in_service and mate not in left_out]
        assert 2 * sum(mate.state is not HostState.UP for mate in counted) <= len(counted)
    for name in ("c", "d"):
        new = {host.id for host in fenced if host.cluster_id == name and not is_off(host)}
        assert len(new | set(tried)) <= max(limit, len(tried))
    assert all(tried.get(host.id, 0) < limit or is_off(host) for host in fenced)


@given(st.lists(HOSTS, max_size=10, unique_by=lambda host: host.id))
def test_a_control_plane_that_has_lost_its_network_fences_nobody(hosts: list[HostFacts]) -> None:
    silent = [
        replace(LOST_AGAIN, id=host.id, cluster_id=host.cluster_id)
        if host.fence is FenceState.OFF
        else replace(host, state=HostState.DISCONNECTED, fence=None)
        for host in hosts
    ]
    assert not [one for one in decide(silent, {"c": Rules(True, 0, 9), "d": Rules(True, 0, 9)}) if one.fence]


def is_off(host: HostFacts) -> bool:
    """It was not heard since it was proved off: to prove it anew switches nothing."""
    return host.fence is FenceState.OFF and not host.heard


def room(name: str, free: int, *vms: int) -> Room:
    return Room(name, name, 99, free, tuple(Load(1, size) for size in vms))


def test_a_reserve_holds_when_the_vms_of_any_host_fit_on_the_others() -> None:
    assert shortfall([room("a", 4, 4), room("b", 4, 4), room("c", 4, 4)], 1) is None
    assert shortfall([room("a", 4, 4), room("b", 3, 4), room("c", 3, 4)], 1) is not None
    assert shortfall([room("a", 0, 4)], 0) is None


def test_free_memory_that_no_single_host_has_is_no_reserve() -> None:
    missing = shortfall([room("a", 0, 8), room("b", 5), room("c", 5)], 1)
    assert missing is not None
    assert (missing.hosts, missing.vms) == (("a",), 1)


def test_a_reserve_for_two_hosts_considers_every_pair() -> None:
    rooms = [room("a", 2, 2), room("b", 2, 2), room("c", 2, 2), room("d", 2, 2)]
    assert shortfall(rooms, 2) is None
    assert shortfall(rooms, 3) is not None


@given(
    st.lists(
        st.builds(room, st.uuids().map(str), st.integers(0, 8), st.integers(1, 4), st.integers(1, 4)),
        max_size=5,
        unique_by=lambda one: one.host_id,
    ),
    st.integers(1, 3),
)
def test_a_reserve_that_holds_for_more_failures_holds_for_fewer(rooms: list[Room], failures: int) -> None:
    if shortfall(rooms, failures) is None and failures < len(rooms):
        for failed in combinations(rooms, failures):
            lost = sum(vm.memory_bytes for host in failed for vm in host.protected)
            assert lost <= sum(host.free_memory_bytes for host in rooms if host not in failed)


def test_a_lease_is_a_proof_where_there_is_no_device() -> None:
    [decision] = decide([replace(DEAD, has_device=False, has_lease=True), *others(3)], RULES)
    assert (decision.fence, decision.by_lease) == (True, True)


def test_the_device_comes_first_and_after_a_failure_the_lease() -> None:
    both = replace(DEAD, has_lease=True)
    tried = [replace(both, fence=FenceState.FAILED, attempts=count, failed_s=10_000) for count in (1, 2, 3)]
    decisions = [decide([host, *others(3)], RULES)[0] for host in (both, *tried)]
    assert [(one.fence, one.by_lease) for one in decisions] == [
        (True, False),
        (True, True),
        (True, False),
        (True, True),
    ]
