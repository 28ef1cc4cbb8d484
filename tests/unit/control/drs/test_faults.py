"""The known faults of another planner, each as a test that this one does not have it.

Numbers follow the list that the project keeps of them; 9, 11 and 14 are about the life of a plan, not its making.
"""

from __future__ import annotations

import dataclasses
import time

import pytest
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_control.drs import Host, Mode, Placements, Settings, Snapshot, Verdict, Vm, plan
from ostler_control.drs.search import Search

from tests.bench.clusters import Shape, make
from tests.unit.control.drs.tiny import GIB, cluster, moves, perfect


def test_fault_1_minutes_of_planning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan looks at few pairs of VM and host, not at all of them in every round."""
    snapshot, looked_at = make(Shape(100, 3_000)), 0
    exact = Search._exact

    def counting(search: Search, vms: object, before: float, floor: float) -> object:
        nonlocal looked_at
        looked_at += len(vms) * len(snapshot.hosts)  # type: ignore[arg-type]  # an array
        return exact(search, vms, before, floor)  # type: ignore[arg-type]

    monkeypatch.setattr(Search, "_exact", counting)
    begin = time.process_time()
    found = plan(snapshot, Settings(imbalance=1.0))
    assert len(found.moves) == 50
    assert looked_at < 50 * 3_000 * 100 / 20
    assert time.process_time() - begin < 5.0  # 0.1 s when nothing else runs


def test_fault_2_moves_that_cost_nothing() -> None:
    """Memory, its dirtying and disks that must move make a cost, and the cost decides."""
    idle = Vm("idle", "idle", "h1", 100, 4 * GIB)
    busy = dataclasses.replace(idle, id="busy", name="busy", dirty_rate_bytes_per_s=500 << 20)
    far = dataclasses.replace(idle, id="far", name="far", pools=frozenset({"p1"}), disk_bytes=100 * GIB)
    hosts = (
        Host("h1", "h1", 1000, 32 * GIB, pools=frozenset({"p1"})),
        Host("h2", "h2", 1000, 32 * GIB, storage_free_bytes=200 * GIB),
    )
    settings = perfect(storage_motion=True)
    (move,) = plan(Snapshot(hosts, (busy, far, idle, dataclasses.replace(idle, id="z", host_id="h2"))), settings).moves
    assert move.vm_id == "idle"
    dearer = {vm.id: plan(Snapshot(hosts, (vm, vm_of_two(vm))), settings).moves[0] for vm in (idle, busy, far)}
    assert dearer["idle"].cost < dearer["busy"].cost < dearer["far"].cost
    assert dearer["far"].storage_motion
    assert dearer["far"].cost_bytes == 104 * GIB


def vm_of_two(vm: Vm) -> Vm:
    return dataclasses.replace(vm, id="twin", name="twin", skip=True)


def test_fault_3_one_metric_of_what_was_given() -> None:
    """Both metrics at once, and measured load instead of what VMs were given."""
    hosts = tuple(Host(f"h{i}", f"h{i}", 1000, 32 * GIB) for i in (1, 2))
    vms = (Vm("cpu", "cpu", "h1", 400, GIB), Vm("cpu2", "cpu2", "h1", 400, GIB), Vm("ram", "ram", "h2", 1, 2 * GIB))
    assert moves(plan(Snapshot(hosts, vms), perfect(metric="memory"))) == ""
    assert moves(plan(Snapshot(hosts, vms), perfect(metric="cpu"))) in ("cpu h1>h2", "cpu2 h1>h2")
    assert plan(Snapshot(hosts, vms), perfect(metric="both")).moves[0].vm_id in ("cpu", "cpu2")
    measured = Snapshot(
        (
            dataclasses.replace(hosts[0], measured_cpu_mhz=900, measured_memory_bytes=2 * GIB),
            dataclasses.replace(hosts[1], measured_cpu_mhz=100, measured_memory_bytes=2 * GIB),
        ),
        (
            Vm("hot", "hot", "h1", 10, GIB, measured_cpu_mhz=400, measured_memory_bytes=GIB),
            Vm("warm", "warm", "h1", 10, GIB, measured_cpu_mhz=500, measured_memory_bytes=GIB),
        ),
    )
    assert moves(plan(measured, perfect(metric="cpu", source="measured"))) == "hot h1>h2"
    with pytest.raises(FailedPreconditionError) as error:
        plan(Snapshot((measured.hosts[0], hosts[1]), measured.vms), perfect(source="measured"))
    assert error.value.reason == "MEASUREMENTS_MISSING"


def test_fault_4_overcommitted_clusters_look_full() -> None:
    crowded = cluster("h1 8: a=6 b=6 c=2\nh2 8: d=6 e=1")
    assert plan(crowded, perfect()).moves == ()
    assert moves(plan(crowded, perfect(overcommit_memory=2.0))) == "c h1>h2"


def test_fault_5_a_dead_end_ends_the_plan_and_vms_move_twice() -> None:
    """Swaps lead out of dead ends, a VM moves once, and what does not help is passed over, not the end."""
    found = plan(cluster("h1 16: a=5 b=5\nh2 16: c=4 d=4\nh3 16: e=9"), perfect())
    assert found.imbalance_after == pytest.approx(0.0)
    assert len({move.vm_id for move in found.moves}) == len(found.moves)
    blocked = "apart! w\nh1 32: a=8,w b=4 c=4\nh2 32: d=1,w\nh3 32: e=1,w"
    assert plan(cluster(blocked), perfect()).imbalance_after < 0.4


def test_fault_6_condensed_judges_by_one_number_and_moves_another() -> None:
    """Hosts become empty or nothing is moved, also when the number that the algorithm judges by stands still."""
    found = plan(cluster("h1 16: a=8\nh2 16: b=8\nh3 16: c=8"), Settings(algorithm="condensed", cost_weight=0))
    left = {load.name: load.vms_after for load in found.loads}
    assert sorted(left.values()) == [0, 1, 2]
    stuck = plan(cluster("h1 16: a=9\nh2 16: b=9\nh3 16: c=9"), Settings(algorithm="condensed", cost_weight=0))
    assert (stuck.verdict, stuck.moves) == (Verdict.NOTHING_HELPS, ())
    assert {host.code for host in stuck.left_hosts} == {"NO_ROOM_ELSEWHERE"}
    skewed = "h1 16: a=2\nh2 16: b=2\n" + "\n".join(f"h{i} 16:" for i in range(3, 9))
    assert plan(cluster(skewed), Settings(algorithm="condensed")).imbalance_before > 1
    always = plan(cluster(skewed), Settings(algorithm="condensed", imbalance=1.0, cost_weight=0))
    assert len(always.moves) == 1


@pytest.mark.parametrize("rule", ["apart! w", "apart w"])
def test_fault_7_rules_on_present_placements_and_no_second_check(rule: str) -> None:
    """Two VMs of a group never meet on planned placements, preferred or strict; and a move can be checked again."""
    snapshot = cluster(f"{rule}\nh1 16: a=3,w x=3\nh2 16: b=3,w y=3\nh3 16:")
    found = plan(snapshot, perfect())
    placements = Placements(snapshot, perfect())
    for move in found.moves:
        assert placements.fits(move.vm_id, move.destination_id)
        placements.move(move.vm_id, move.destination_id)
    later = cluster(f"{rule}\nh1 16: a=3,w x=3\nh2 16: b=3,w y=3\nh3 16: z=3,w")
    refusal = Placements(later, perfect()).refusal("a", "h3")
    assert refusal is not None
    assert (refusal.code, refusal.explanation) == ("ANTI_AFFINITY", '"z" of group "w" is there')


def test_fault_8_no_order_of_moves() -> None:
    """Room is made before it is needed, and each move says which must be over first."""
    found = plan(cluster("h1 16: a=8\nh2 10: b=4\nh3 6:"), perfect(), Mode.EVACUATE, leaving=["h1"])
    assert [(move.vm_id, move.needs) for move in found.moves] == [("b", ()), ("a", (0,))]
    free = plan(cluster("h1 64: a=4 b=4 c=4 d=4\nh2 64:\nh3 64:"), perfect())
    assert [move.needs for move in free.moves] == [()] * len(free.moves)


def test_fault_10_vms_and_hosts_of_elsewhere() -> None:
    with pytest.raises(InvalidArgumentError):
        Snapshot((Host("h1", "h1", 1, 1),), (Vm("a", "a", "h9", 1, 1),))


def test_fault_12_nobody_says_why() -> None:
    """Who is left out is named and counted; that nothing helps is an answer."""
    text = "apart! w\nh1 16 encryption: a=4,encrypted b=4,skip c=4,busy e=2,w\nh2 16: f=1,w\n"
    found = plan(cluster(text + "h3 16 maintenance:\nh4 16 off: d=1"), perfect())
    assert found.verdict is Verdict.NOTHING_HELPS
    assert {vm.name: vm.code for vm in found.left_vms} == {"b": "SKIPPED", "c": "NOT_MOVABLE", "d": "HOST_NOT_UP"}
    assert {host.name: host.code for host in found.left_hosts} == {"h3": "IN_MAINTENANCE", "h4": "NOT_UP"}
    assert found.refused == {"ANTI_AFFINITY": 2, "LACKS_VOLUME_ENCRYPTION": 1}
    assert "nothing that is allowed helps" in found.explanation


def test_fault_13_hosts_in_maintenance_are_measured() -> None:
    even = "h1 16: a=4\nh2 16: b=4\n"
    for out in ("h3 16 maintenance: c=12", "h3 16 off: c=12"):
        found = plan(cluster(even + out), perfect())
        assert (found.verdict, found.imbalance_before) == (Verdict.SATISFIED, 0.0)
