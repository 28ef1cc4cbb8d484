"""Broken rules are repaired, also where no single move repairs one."""

from __future__ import annotations

import time

import pytest
from ostler_control.drs import Group, GroupKind, Host, Mode, Settings, Snapshot, Vm, plan

from tests.bench.fleets import Broken, make_broken
from tests.unit.control.drs.tiny import GIB, cluster, perfect

STUCK = [
    ("another VM makes room", "apart! w\nh1 16: a=8,w b=4,w\nh2 16: c=14\nh3 3: d=1\nh4 14:"),
    ("the mate's host is full", "together! w\nh1 8: a=4,w x=4\nh2 8: b=4,w y=4\nh3 8: z=4"),
    ("neither host has room for both", "together! w\nh1 8: a=4,w x=4,skip\nh2 8: b=4,w y=4,skip\nh3 8:"),
]


@pytest.mark.parametrize("text", [case[1] for case in STUCK], ids=[case[0] for case in STUCK])
def test_what_no_single_move_repairs(text: str) -> None:
    found = plan(cluster(text), perfect(), Mode.REPAIR)
    assert found.broken_before
    assert not found.broken_after


@pytest.mark.parametrize("seed", range(10))
def test_broken_clusters_are_repaired_whole(seed: int) -> None:
    found = plan(make_broken(Broken(4 + seed % 4, full=0.8, seed=seed)), Settings(), Mode.REPAIR)
    assert not found.broken_after


def test_thousands_of_vms_in_one_group_take_moments() -> None:
    hosts = tuple(Host(f"h{number}", f"h{number}", 10**6, 512 * GIB) for number in range(1_000))
    vms = tuple(Vm(f"v{n}", f"v{n}", f"h{n * n % 1_000}", 100, 8 * GIB, groups=("g",)) for n in range(1_000))
    snapshot = Snapshot(hosts, vms, (Group("g", "g", GroupKind.ANTI_AFFINITY),))
    begin = time.process_time()
    assert len(plan(snapshot, Settings(), Mode.REPAIR).moves) == 50
    assert time.process_time() - begin < 2.0  # 0.1 s when nothing else runs
