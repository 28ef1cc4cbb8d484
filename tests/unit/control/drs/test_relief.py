"""Hot hosts, and plans that relieve them."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from ostler_control.drs import Placements, Settings, Snapshot, Verdict
from ostler_control.drs.relief import Resource, hot_hosts, relieve

from tests.unit.control.drs.chance import every_settings, snapshots
from tests.unit.control.drs.tiny import cluster, moves

CPU = frozenset({Resource.CPU})


def busy(text: str, **shares: float) -> Snapshot:
    """A cluster whose hosts use these shares of their CPUs, in equal parts by their VMs."""
    snapshot = cluster(text)
    used = {host.id: round(shares.get(host.name, 0.0) * host.cpu_mhz) for host in snapshot.hosts}
    hosts = tuple(
        dataclasses.replace(host, measured_cpu_mhz=used[host.id], measured_memory_bytes=0) for host in snapshot.hosts
    )
    count = {host.id: sum(vm.host_id == host.id for vm in snapshot.vms) for host in hosts}
    vms = tuple(
        dataclasses.replace(vm, measured_cpu_mhz=used[vm.host_id] // count[vm.host_id], measured_memory_bytes=0)
        for vm in snapshot.vms
    )
    return Snapshot(hosts, vms, snapshot.groups)


def test_hosts_above_the_threshold_are_hot() -> None:
    snapshot = busy("h1 16: a=4\nh2 16: b=4\nh3 16 maintenance: c=4", h1=0.95, h2=0.9, h3=1.0)
    assert hot_hosts(snapshot, Settings()) == {"h1": CPU}
    assert hot_hosts(snapshot, Settings(hot_threshold=1.0)) == {}
    assert hot_hosts(cluster("h1 16: a=16"), Settings()) == {}, "without samples nothing is hot"


def test_no_more_moves_than_bring_it_below_the_threshold() -> None:
    snapshot = busy("h1 16: a=2 b=2 c=2 d=2 e=2\nh2 16:\nh3 16: f=2", h1=1.0, h3=0.2)
    found = relieve(snapshot, Settings(imbalance=0.0), {"h1": CPU})
    assert len(found.moves) == 1
    assert found.moves[0].source_name == "h1"
    assert found.explanation.startswith("host h1 uses 100% of its CPUs (drs.hot.threshold 0.9)")


def test_only_vms_of_hot_hosts_move() -> None:
    snapshot = busy("h1 16: a=8 b=8\nh2 16: c=8\nh3 16: d=4", h1=1.0, h2=0.8, h3=0.1)
    found = relieve(snapshot, Settings(cost_weight=0.0), {"h1": CPU})
    assert {move.source_name for move in found.moves} == {"h1"}


def test_nothing_moves_when_no_host_gets_cooler() -> None:
    snapshot = busy("h1 16: a=4\nh2 16: b=4", h1=0.95, h2=0.93)
    found = relieve(snapshot, Settings(), {"h1": CPU, "h2": CPU})
    assert (moves(found), found.verdict) == ("", Verdict.NOTHING_HELPS)
    assert "no move that is allowed helps" in found.explanation
    assert found.imbalance_after == found.imbalance_before


def test_rules_hold_and_cooldowns_count() -> None:
    snapshot = busy("off! w h2\nh1 16: a=8,w b=8\nh2 16:", h1=1.0)
    assert moves(relieve(snapshot, Settings(), {"h1": CPU})) == "b h1>h2"
    cooling = tuple(dataclasses.replace(vm, moved_ago_s=60.0) for vm in snapshot.vms)
    assert not relieve(dataclasses.replace(snapshot, vms=cooling), Settings(), {"h1": CPU}).moves


@hypothesis_settings(max_examples=60, deadline=None)
@given(snapshots(), every_settings())
def test_relieving_keeps_every_rule_and_moves_vms_of_hot_hosts_only(snapshot: Snapshot, settings: Settings) -> None:
    settings = dataclasses.replace(settings, hot_threshold=0.2)
    hot = hot_hosts(snapshot, settings)
    if not hot:
        return
    placements = Placements(snapshot, settings)
    for move in relieve(snapshot, settings, hot).moves:
        assert move.source_id in hot
        assert placements.refusal(move.vm_id, move.destination_id) is None
        assert not placements.vms[move.vm_id].skip
        placements.move(move.vm_id, move.destination_id)
