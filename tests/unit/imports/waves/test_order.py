"""Which VMs of a plan begin next, how fast they go, and how long they take."""

from __future__ import annotations

from ostler_control.imports.waves.order import Busy, Entry, Limits, choose, to_skip
from ostler_control.imports.waves.progress import Sample, Speed, left_s, plan_left_s
from ostler_control.states import ImportPlanVmState as State

MIB = 1 << 20
WIDE = Limits(vms=10, per_esxi_host=10, per_vcenter=10, per_conversion_host=10)


def entry(position: int, state: State = State.WAITING, after: tuple[int, ...] = (), esxi_host: str = "e1") -> Entry:
    return Entry(position, f"vm{position}", state, after, esxi_host)


def test_vms_begin_in_the_order_of_the_list() -> None:
    assert choose([entry(0), entry(1), entry(2)], WIDE, Busy()).begin == (0, 1, 2)


def test_a_vm_waits_for_those_that_it_comes_after() -> None:
    entries = [entry(0, State.RUNNING), entry(1, after=(0,)), entry(2)]
    choice = choose(entries, WIDE, Busy(1, {"e1": 1}))
    assert choice.begin == (2,)
    assert choice.waiting == {1: "comes after vm0"}
    assert choose([entry(0, State.IMPORTED), entry(1, after=(0,))], WIDE, Busy()).begin == (1,)


def test_a_vm_is_skipped_once_one_that_it_comes_after_was_not_imported() -> None:
    entries = [entry(0, State.REFUSED), entry(1, after=(0,)), entry(2, after=(1,)), entry(3)]
    assert list(to_skip(entries)) == [(1, "it comes after vm0, which was not imported")]


def test_each_limit_holds_vms_back() -> None:
    three = [entry(number) for number in range(3)]
    assert choose(three, Limits(2, 9, 9, 9), Busy()).begin == (0, 1)
    assert choose(three, Limits(9, 9, 2, 9), Busy(source=1)).begin == (0,)
    choice = choose([*three[:2], entry(2, esxi_host="e2")], Limits(9, 1, 9, 9), Busy(0, {"e1": 1}))
    assert choice.begin == (2,), "a host's limit holds up only that host's VMs"
    assert "parallel.per_esxi_host" in choice.waiting[0]


def test_running_imports_count() -> None:
    choice = choose([entry(0, State.RUNNING), entry(1)], Limits(1, 9, 9, 9), Busy(1, {"e1": 1}))
    assert choice.begin == ()
    assert "parallel.vms" in choice.waiting[1]


def test_the_speed_is_of_the_present_phase() -> None:
    speed = Speed()
    assert speed.bytes_per_s == 0
    for second in range(40):
        speed.add(Sample(second, "exporting", second * 10 * MIB, 1000 * MIB))
    assert speed.bytes_per_s == 10 * MIB
    speed.add(Sample(40, "converting", 0, 1000 * MIB))
    assert speed.bytes_per_s == 0


def test_the_speed_forgets_what_was_long_ago() -> None:
    speed = Speed()
    for second in range(30):
        speed.add(Sample(second, "exporting", second * MIB, 1000 * MIB))
    for second in range(30, 60):
        speed.add(Sample(second, "exporting", (30 + (second - 30) * 5) * MIB, 1000 * MIB))
    assert 4.9 * MIB < speed.bytes_per_s < 5.1 * MIB


def test_time_left_follows_the_speed_and_counts_the_phases_to_come() -> None:
    exporting = Sample(0, "exporting", 400 * MIB, 1000 * MIB)
    assert left_s(exporting, 10 * MIB, 1200 * MIB, 999, 10) == 60 + 10 + 15
    assert left_s(Sample(0, "converting", 400 * MIB, 1000 * MIB), 10 * MIB, 1200 * MIB, 999, 10) == 60 + 15
    assert left_s(Sample(0, "starting", 0, 0), 0, 1200 * MIB, 100, 40) == 60
    assert left_s(Sample(0, "starting", 0, 0), 0, 1200 * MIB, 100, 140) == 0


def test_a_plan_takes_as_long_as_its_fullest_place() -> None:
    assert plan_left_s([], [], 2) == 0
    assert plan_left_s([30, 10], [20, 20], 2) == 50
    assert plan_left_s([5], [10, 10, 10], 2) == 20
