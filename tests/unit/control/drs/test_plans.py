"""Tiny clusters with the plans expected of them."""

from __future__ import annotations

import dataclasses

import pytest
from ostler_common.errors import InvalidArgumentError
from ostler_control.drs import Mode, Settings, Verdict, plan

from tests.unit.control.drs.tiny import cluster, moves, perfect

BALANCED = [
    ("one move evens all", "h1 16: a=4 b=4\nh2 16:", "a h1>h2"),
    ("nothing to do", "h1 16: a=4\nh2 16: b=4", ""),
    ("the VM that closes the gap, not the largest", "h1 32: a=8 b=3 c=3\nh2 32: d=8", "b h1>h2"),
    ("to the emptiest", "h1 16: a=2 b=2 c=2\nh2 16: d=2 e=2\nh3 16: f=1", "a h1>h3"),
    ("an opted-out VM stays", "h1 16: a=4,skip b=4\nh2 16:", "b h1>h2"),
    ("a busy VM stays", "h1 16: a=4,busy b=4\nh2 16:", "b h1>h2"),
    ("shares count, not bytes", "h1 32: a=4 b=4\nh2 8: c=2", ""),
    ("encrypted VMs only where it was proved",
     "h1 16 encryption: a=4,encrypted b=4,encrypted\nh2 16:\nh3 16 encryption:",
     "a h1>h3"),
    ("strict anti-affinity", "apart! w\nh1 16: a=4,w b=4\nh2 16: c=1,w", "b h1>h2"),
    ("preferred anti-affinity holds as well", "apart w\nh1 16: a=4,w b=4\nh2 16: c=1,w", "b h1>h2"),
    ("only on its hosts", "on! w h1 h3\nh1 16: a=4,w\nh2 16:\nh3 16: b=1", ""),
    ("never on a host", "off! w h2\nh1 16: a=4,w b=4,w\nh2 16:\nh3 16:", "a h1>h3"),
    ("a preference for hosts binds as well", "on w h1\nh1 16: a=4,w b=4\nh2 16:", "b h1>h2"),
    ("affinity keeps together", "together! w\nh1 16: a=4,w b=4,w\nh2 16:", ""),
    ("a full target takes none", "h1 16: a=8 b=8\nh2 16: c=16\nh3 12: d=1", "a h1>h3, d h3>h1"),
    ("a host in maintenance is no target", "h1 16: a=4 b=4\nh2 16 maintenance:\nh3 16: c=8", ""),
    ("a swap where no move helps", "h1 16: a=5 b=5\nh2 16: c=4 d=4", "a h1>h2, c h2>h1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in BALANCED], ids=[case[0] for case in BALANCED])
def test_balanced(text: str, expected: str) -> None:
    assert moves(plan(cluster(text), perfect())) == expected


CONDENSED = [
    ("the smallest host is emptied", "h1 16: a=8\nh2 16: b=4\nh3 16: c=2", "c h3>h1, b h2>h1"),
    ("only as a whole", "h1 16: a=14\nh2 16: b=4 c=4 d=4\nh3 16: e=2 f=3", "f h3>h2, e h3>h1"),
    ("a VM that stays keeps its host", "h1 16: a=8\nh2 16: b=4\nh3 16: c=2,skip", "b h2>h3, a h1>h3"),
    ("empty hosts are left empty", "h1 16: a=8\nh2 16: b=16\nh3 16:", ""),
    ("anti-affinity", "apart! w\nh1 16: a=2,w\nh2 16: b=3,w\nh3 16: c=8", "a h1>h3"),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in CONDENSED], ids=[case[0] for case in CONDENSED])
def test_condensed(text: str, expected: str) -> None:
    assert moves(plan(cluster(text), perfect(algorithm="condensed"))) == expected


def test_condensed_stops_when_uneven_enough() -> None:
    even = cluster("h1 16: a=4\nh2 16: b=4\nh3 16: c=4\nh4 16: d=4")
    one = plan(even, Settings(algorithm="condensed", imbalance=0.4, cost_weight=0))
    assert moves(one) == "a h1>h4"
    assert (
        plan(cluster("h1 16: a=15\nh2 16:\nh3 16: b=1"), Settings(algorithm="condensed")).verdict is Verdict.SATISFIED
    )


def test_satisfied_by_default_at_sixty_percent() -> None:
    found = plan(cluster("h1 16: a=4 b=4\nh2 16: c=2"), Settings())
    assert found.verdict is Verdict.SATISFIED
    assert found.imbalance_before == pytest.approx(0.6)
    assert "balanced already" in found.explanation
    skewed = plan(cluster("h1 16: a=4 b=4\nh2 16:"), Settings())
    assert (moves(skewed), skewed.imbalance_after) == ("a h1>h2", 0.0)


def test_nothing_allowed_helps_is_an_answer_with_reasons() -> None:
    found = plan(cluster("h1 16 encryption: a=4,encrypted b=4,skip\nh2 16:"), perfect())
    assert found.verdict is Verdict.NOTHING_HELPS
    assert found.refused == {"LACKS_VOLUME_ENCRYPTION": 1}
    assert [(vm.name, vm.code) for vm in found.left_vms] == [("b", "SKIPPED")]


def test_a_plan_leaves_room_for_vms_of_a_failed_host() -> None:
    crowded = cluster("h1 16: a=8,protected b=4 c=4\nh2 16: d=6\nh3 16: e=9")
    assert moves(plan(crowded, perfect())) == "b h1>h2", "then no host has room for a"
    kept = plan(crowded, perfect(ha_reserve_hosts=1))
    assert moves(kept) == "a h1>h2"
    assert {vm.name: vm.code for vm in kept.left_vms} == {"b": "RESERVED", "c": "RESERVED"}


def test_without_a_plan_that_keeps_the_reserve_nothing_moves() -> None:
    crowded = cluster("h1 16: a=8,protected,skip b=4\nh2 16: d=6\nh3 16: e=9")
    assert moves(plan(crowded, perfect())) == "b h1>h2"
    kept = plan(crowded, perfect(ha_reserve_hosts=1))
    assert (moves(kept), kept.verdict) == ("", Verdict.NOTHING_HELPS)


def test_at_most_max_migrations() -> None:
    crowded = cluster("h1 64: a=4 b=4 c=4 d=4 e=4 f=4\nh2 64:\nh3 64:")
    assert len(plan(crowded, perfect(max_migrations=2)).moves) == 2
    assert "drs.max.migrations" in plan(crowded, perfect(max_migrations=2)).explanation


def test_min_gain_and_cost_weight_end_a_plan() -> None:
    nearly_even = cluster("h1 100: a=40 b=1 c=1\nh2 100: d=40")
    assert moves(plan(nearly_even, perfect())) == "b h1>h2"
    assert moves(plan(nearly_even, perfect(min_gain=0.05))) == ""
    heavy = cluster("h1 100: a=20 b=19\nh2 100: c=1")
    assert plan(heavy, perfect(cost_weight=0)).moves
    assert not plan(heavy, perfect(cost_weight=100.0)).moves


@pytest.mark.parametrize(
    ("times", "minutes", "stays"), [(1, 31, False), (2, 31, True), (2, 61, False), (9, 1000, True)]
)
def test_cooldown_grows_with_repeated_moves(times: int, minutes: int, stays: bool) -> None:
    snapshot = cluster("h1 16: a=4 b=4\nh2 16:")
    vms = tuple(dataclasses.replace(vm, moved_ago_s=minutes * 60, recent_moves=times) for vm in snapshot.vms)
    found = plan(dataclasses.replace(snapshot, vms=vms), perfect())
    assert not found.moves if stays else found.moves
    if times == 9:
        assert "9 times within a day" in found.left_vms[0].explanation


def test_of_equal_moves_the_cheaper() -> None:
    snapshot = cluster("h1 16: a=4 b=4\nh2 16:")
    vms = tuple(dataclasses.replace(vm, dirty_rate_bytes_per_s=500 << 20 if vm.id == "a" else 0) for vm in snapshot.vms)
    assert moves(plan(dataclasses.replace(snapshot, vms=vms), perfect())) == "b h1>h2"


def test_every_move_says_why() -> None:
    (move,) = plan(cluster("h1 16: a=4 b=4\nh2 16:\nh3 16: c=4"), perfect()).moves
    assert move.reason == 'used memory: "h1" has 50.0%, "h2" 0.0%: imbalance 81.65% -> 0.00%'
    assert [(other.vm_name, other.destination_name) for other in move.considered] == [("b", "h2")]


REPAIR = [
    ("nothing broken", "apart! w\nh1 16: a=4,w\nh2 16: b=4,w", ""),
    ("apart again, the cheaper one moves", "apart! w\nh1 16: a=4,w b=2,w\nh2 16:", "b h1>h2"),
    ("together again", "together! w\nh1 16: a=4,w b=2,w\nh2 16: c=2,w", "c h2>h1"),
    ("nothing else is moved", "apart! w\nh1 64: a=4,w b=4,w d=9 e=9\nh2 64:", "a h1>h2"),
    ("back to its hosts", "on! w h2\nh1 16: a=4,w b=4\nh2 16:", "a h1>h2"),
    ("off a host", "off! w h1\nh1 16: a=4,w b=4\nh2 16:", "a h1>h2"),
    ("nowhere to go", "apart! w\nh1 16: a=4,w b=4,w\nh2 2:", ""),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in REPAIR], ids=[case[0] for case in REPAIR])
def test_repair(text: str, expected: str) -> None:
    assert moves(plan(cluster(text), perfect(), Mode.REPAIR)) == expected


EVACUATE = [
    ("to the emptiest", "h1 16: a=4 b=2\nh2 16: c=8\nh3 16:", "a h1>h3, b h1>h3"),
    ("opting out does not hold back maintenance", "h1 16: a=4,skip\nh2 16:", "a h1>h2"),
    ("only to its hosts", "on! w h1 h3\nh1 16: a=4,w\nh2 16:\nh3 16: b=8", "a h1>h3"),
    ("room is made first", "h1 16: a=8\nh2 10: b=4\nh3 6:", "b h2>h3, a h1>h2"),
    ("a preference gives way", "apart w\nh1 16: a=4,w\nh2 16: b=4,w", "a h1>h2"),
    ("a strict rule does not", "apart! w\nh1 16: a=4,w\nh2 16: b=4,w", ""),
    ("what must stay together goes together", "together! w\nh1 16: a=4,w b=4,w\nh2 6:\nh3 12: c=3", "a h1>h3, b h1>h3"),
    ("or stays together", "together! w\nh1 16: a=4,w b=4,w x=1\nh2 6:\nh3 6:", "x h1>h2"),
    ("a mate that cannot move holds it", "together! w\nh1 16: a=4,w b=4,w,busy\nh2 16:", ""),
    ("room is made for both", "together! w\nh1 16: a=4,w b=4,w\nh2 8: c=3\nh3 4:", "c h2>h3, a h1>h2, b h1>h2"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in EVACUATE], ids=[case[0] for case in EVACUATE])
def test_evacuate(text: str, expected: str) -> None:
    assert moves(plan(cluster(text), perfect(), Mode.EVACUATE, leaving=["h1"])) == expected


def test_evacuation_says_who_holds_a_group() -> None:
    found = plan(cluster("together! w\nh1 16: a=4,w b=4,w,busy\nh2 16:"), perfect(), Mode.EVACUATE, leaving=["h1"])
    held = {vm.name: (vm.code, vm.explanation) for vm in found.left_vms}
    assert held["a"][0] == "HELD_BY_GROUP"
    assert 'must stay with VM "b"' in held["a"][1]
    assert held["b"][0] == "NOT_MOVABLE"


def test_hosts_that_hold_others_are_not_emptied() -> None:
    snapshot = cluster("h1 16: a=1\nh2 16: b=8\nh3 16: c=2")
    h1 = dataclasses.replace(snapshot.hosts[0], other_memory_bytes=1 << 30)
    found = plan(
        dataclasses.replace(snapshot, hosts=(h1, *snapshot.hosts[1:])), perfect(algorithm="condensed", imbalance=1.0)
    )
    assert moves(found) in ("c h3>h1, b h2>h1",)
    assert {host.name: host.code for host in found.left_hosts} == {"h1": "HOLDS_OTHERS"}


def test_evacuation_says_what_cannot_leave() -> None:
    found = plan(cluster("h1 16: a=8 b=1\nh2 16: c=12"), perfect(), Mode.EVACUATE, leaving=["h1"])
    assert moves(found) == "b h1>h2"
    assert [(vm.name, vm.code, vm.explanation) for vm in found.left_vms] == [
        ("a", "NO_HOST_TAKES_IT", "no host takes it: 1 LACKS_MEMORY")
    ]
    assert "1 VMs cannot leave" in found.explanation


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("drs.imbalance", 1.5),
        ("drs.imbalance", "much"),
        ("drs.metric", "disk"),
        ("drs.max.migrations", 0),
        ("drs.max.migrations", 2.5),
        ("drs.max.migrations", True),
        ("drs.metric.use.ratio", "yes"),
        ("drs.min.gain", "nan"),
        ("drs.algorithm", ""),
        ("drs.level", 3),
    ],
)
def test_bad_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        Settings.of({name: value})
    assert error.value.reason == "INVALID_SETTING"
    assert f'settings["{name}"]' in error.value.message
