"""Which hosts could be off, and which should be on again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from ostler_control.drs import Placements, Settings, Snapshot
from ostler_control.drs.power import PowerPlan, power_plan
from ostler_control.drs.reserve import Reserve

from tests.unit.control.drs.chance import every_settings, snapshots
from tests.unit.control.drs.tiny import cluster


def planned(snapshot: Snapshot, **changes: object) -> PowerPlan:
    return power_plan(snapshot, Settings(**changes), {host.id for host in snapshot.hosts})  # type: ignore[arg-type]


def off(found: PowerPlan) -> list[str]:
    return [change.host_name for change in found.switch_off]


def on(found: PowerPlan) -> list[str]:
    return [change.host_name for change in found.switch_on]


OFF = [
    ("the emptiest first", "h1 16: a=6\nh2 16: b=1\nh3 16: c=2", ["h2"]),
    ("two always stay", "h1 16:\nh2 16:\nh3 16:", ["h1"]),
    ("as many as the threshold allows", "h1 16: a=4\nh2 16: b=1\nh3 16: c=2\nh4 16: d=3", ["h2", "h3"]),
    ("not above the threshold", "h1 16: a=6\nh2 16: b=6\nh3 16: c=8", []),
    ("not when a VM must stay", "h1 16: a=4\nh2 16: b=1,skip\nh3 16: c=2", ["h3"]),
    ("not when a rule forbids it", "on! w h2\nh1 16: a=4\nh2 16: b=1,w\nh3 16: c=2", ["h3"]),
    ("nor a preference", "on w h2\nh1 16: a=4\nh2 16: b=1,w\nh3 16: c=2", ["h3"]),
    ("room for the largest VM stays", "h1 10: a=6\nh2 10: b=5\nh3 10:", []),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in OFF], ids=[case[0] for case in OFF])
def test_hosts_that_could_be_off(text: str, expected: list[str]) -> None:
    found = planned(cluster(text))
    assert (off(found), on(found)) == (expected, [])


def test_the_plan_has_the_moves_and_says_what_is_left() -> None:
    found = planned(cluster("h1 16: a=6\nh2 16: b=1\nh3 16: c=2"))
    assert [(move.vm_name, move.source_name) for move in found.moves] == [("b", "h2")]
    assert found.switch_off[0].reason == "after 1 moves"
    assert found.explanation == "h2 could be off: then 28% is allocated instead of 19%"


def test_the_reserve_stays_on() -> None:
    text = "h1 16: a=4,protected b=4,protected\nh2 16: c=8,protected\nh3 16: d=1"
    assert off(planned(cluster(text), power_off_threshold=1.0)) == ["h3"]
    assert off(planned(cluster(text), power_off_threshold=1.0, ha_reserve_hosts=1)) == []


def test_hosts_without_a_switch_stay_on() -> None:
    assert not power_plan(cluster("h1 16:\nh2 16:\nh3 16:"), Settings(), set()).switch_off


ON = [
    ("enough is free", "h1 16: a=8\nh2 16: b=4\nh3 16 asleep:", []),
    ("too much is allocated", "h1 16: a=14\nh2 16: b=12 c=1\nh3 16 asleep:", ["h3"]),
    (
        "no more than are needed, the largest first",
        "h1 16: a=14\nh2 16: b=12 c=1\nh3 16 asleep:\nh4 32 asleep:",
        ["h4"],
    ),
    ("no room for the largest VM", "h1 16: a=10\nh2 16: b=7\nh3 16 asleep:", ["h3"]),
    ("none is asleep", "h1 16: a=14\nh2 16: b=12 c=1\nh3 16 maintenance:", []),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in ON], ids=[case[0] for case in ON])
def test_hosts_that_should_be_on(text: str, expected: list[str]) -> None:
    found = planned(cluster(text))
    assert (on(found), off(found)) == (expected, [])


def test_a_host_wakes_for_the_reserve() -> None:
    text = "h1 16: a=4,protected b=4,protected\nh2 16: c=4 d=4 e=4\nh3 16 asleep:"
    assert on(planned(cluster(text))) == []
    found = planned(cluster(text), ha_reserve_hosts=1)
    assert on(found) == ["h3"]
    assert "ha.reserve.hosts" in found.explanation


@hypothesis_settings(max_examples=60, deadline=None)
@given(snapshots(), every_settings())
def test_switching_hosts_off_keeps_every_rule(snapshot: Snapshot, settings: Settings) -> None:
    found = power_plan(snapshot, settings, {host.id for host in snapshot.hosts})
    emptied = {change.host_id for change in found.switch_off}
    placements, reserve = Placements(snapshot, settings, emptied), Reserve(snapshot, settings)
    for move in found.moves:
        assert placements.refusal(move.vm_id, move.destination_id, preferred=False) is None
        assert move.destination_id not in emptied
        assert not placements.vms[move.vm_id].skip
        placements.move(move.vm_id, move.destination_id)
        reserve.move(move.vm_id, move.destination_id)
    assert emptied.isdisjoint(placements.host_of.values())
    assert not (found.switch_off and found.switch_on)
    assert not emptied or found.share_after <= settings.power_off_threshold
