"""What the watcher makes of hosts' reports."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_control.fleet import reconcile as reconciling
from ostler_control.fleet.reconcile import HostView, PauseReason, Seen, VmRow, reconcile, unmanaged
from ostler_control.models import PowerState, VmState

ROW = VmRow("v1", "web", "acc", VmState.RUNNING, PowerState.RUNNING, "", home="A", quiet=True)


def host(host_id: str, /, heard: bool = True, silent: bool = False, **vms: str) -> HostView:
    """A host with VMs by id and power state."""
    seen = {vm_id: Seen(vm_id, vm_id, PowerState(power_state)) for vm_id, power_state in vms.items()}
    return HostView(host_id, f"host-{host_id}", heard, silent, seen)


def running(host_id: str, vm_ids: Iterable[str]) -> HostView:
    return HostView(host_id, f"host-{host_id}", True, False, {id: Seen(id, id, PowerState.RUNNING) for id in vm_ids})


def judged(row: VmRow, *hosts: HostView) -> tuple[str, str, str] | None:
    """(power state, beginning of the attention, event) of the one verdict, None when nothing changes."""
    verdicts = reconcile([row], {h.host_id: h for h in hosts})
    if not verdicts:
        return None
    (verdict,) = verdicts
    return verdict.power_state, verdict.attention[:18], verdict.event


@pytest.mark.parametrize(
    ("state", "power_state", "expected"),
    [
        ("running", "running", None),
        ("running", "stopped", ("stopped", "stopped outside Os", "vm.stopped")),
        ("running", "paused", ("paused", "paused outside Ost", "vm.paused")),
        ("running", "crashed", ("crashed", "its guest crashed", "vm.crashed")),
        ("stopped", "running", ("running", "started outside Os", "vm.started")),
        ("stopped", "stopped", ("stopped", "", "")),
        ("failed", "running", None),
    ],
)
def test_vm_on_its_host(state: str, power_state: str, expected: tuple[str, str, str] | None) -> None:
    power_before = PowerState.RUNNING if state != "stopped" else PowerState.UNKNOWN
    row = ROW._replace(state=VmState(state), power_state=power_before)
    assert judged(row, host("A", v1=power_state)) == expected


@pytest.mark.parametrize("reason", list(PauseReason))
def test_a_vm_that_waits_for_its_storage_says_so_once(reason: PauseReason) -> None:
    seen = Seen("v1", "v1", PowerState.PAUSED, detail="ioerror", pause_reason=reason)
    full = HostView("A", "host-A", heard=True, vms={"v1": seen})
    (verdict,) = reconcile([ROW], {"A": full})
    assert (verdict.power_state, verdict.attention, verdict.event) == (PowerState.PAUSED, reason.value, "vm.paused")
    told = ROW._replace(power_state=verdict.power_state, attention=verdict.attention)
    assert reconcile([told], {"A": full}) == []
    assert judged(told, host("A", v1="running")) == ("running", "", "vm.recovered")


def test_vm_that_vanished() -> None:
    assert judged(ROW, host("A")) == ("absent", "vanished: its host", "vm.vanished")
    assert judged(ROW._replace(state=VmState.STOPPED, power_state=PowerState.STOPPED), host("A")) == (
        "absent",
        "its definition is ",
        "vm.vanished",
    )


def test_stopped_vm_that_was_never_seen_is_not_missed() -> None:
    assert judged(ROW._replace(state=VmState.STOPPED, power_state=PowerState.UNKNOWN), host("A")) == ("absent", "", "")


def test_nothing_is_said_twice() -> None:
    for row, view in [
        (ROW, host("A")),
        (ROW, host("A", v1="stopped")),
        (ROW._replace(state=VmState.STOPPED, power_state=PowerState.STOPPED), host("A")),
        (ROW, host("A", heard=False, silent=True)),
    ]:
        (verdict,) = reconcile([row], {"A": view})
        after = row._replace(power_state=verdict.power_state, attention=verdict.attention)
        assert reconcile([after], {"A": view}) == []


def test_end_of_trouble_is_told() -> None:
    row = ROW._replace(power_state=PowerState.STOPPED, attention="stopped outside Ostler on host host-A")
    assert judged(row, host("A", v1="running")) == ("running", "", "vm.recovered")


@pytest.mark.parametrize("row", [ROW._replace(quiet=False), ROW._replace(state=VmState.MIGRATING)])
def test_what_an_operation_holds_is_left_to_it(row: VmRow) -> None:
    assert judged(row, host("A"), host("B", v1="running")) is None


def test_silent_host_is_shown_on_its_running_vms_without_events() -> None:
    silent = host("A", heard=False, silent=True, v1="running")
    assert judged(ROW, silent) == ("", "its host is silent", "")
    assert judged(ROW._replace(state=VmState.STOPPED, power_state=PowerState.STOPPED), silent) is None
    (verdict,) = reconcile([ROW], {"A": silent})
    after = ROW._replace(power_state=verdict.power_state, attention=verdict.attention)
    assert judged(after, host("A", v1="running")) == ("running", "", "")
    assert judged(after, host("A", v1="stopped")) == ("stopped", "stopped outside Os", "vm.stopped")


def test_what_failed_stays_written_on_the_vm() -> None:
    row = ROW._replace(state=VmState.FAILED, attention="not deleted: disk in use")
    assert judged(row, host("A", v1="running")) is None
    assert judged(row._replace(home=""), host("A")) is None


def test_host_that_is_being_connected_says_nothing() -> None:
    assert judged(ROW, host("A", heard=False)) is None


@pytest.mark.parametrize(
    ("home", "expected"),
    [
        (host("A", v1="running"), ("running", "RUNS TWICE, on hos", "vm.doubled")),
        (host("A"), ("absent", "RUNS ON HOST host-", "vm.misplaced")),
        (host("A", heard=False, silent=True), ("", "RUNS ON HOST host-", "vm.doubled")),
    ],
)
def test_vm_that_runs_elsewhere_is_shouted_about(home: HostView, expected: tuple[str, str, str]) -> None:
    assert judged(ROW, home, host("B", v1="running")) == expected


def test_leftover_definition_elsewhere_is_no_trouble() -> None:
    assert judged(ROW, host("A", v1="running"), host("B", v1="stopped")) is None


def test_old_reports_of_a_silent_host_are_not_believed() -> None:
    assert judged(ROW, host("A", v1="running"), host("B", heard=False, silent=True, v1="running")) is None


def test_vm_placed_nowhere_that_runs_somewhere() -> None:
    row = ROW._replace(state=VmState.STOPPED, power_state=PowerState.UNKNOWN, home="")
    assert judged(row, host("B", v1="running")) == ("", "RUNS ON HOST host-", "vm.misplaced")


STRAYED = ROW._replace(state=VmState.STOPPED, power_state=PowerState.ABSENT, seen_on=frozenset({"B"}))


def test_a_host_where_a_vm_was_seen_outside_its_place_is_kept_until_it_reports_the_absence() -> None:
    def seen_on(*hosts: HostView) -> frozenset[str]:
        (verdict,) = reconcile([STRAYED._replace(attention="differs")], {h.host_id: h for h in hosts})
        return verdict.seen_on

    assert seen_on(host("A"), host("B", v1="running")) == {"B"}
    assert seen_on(host("A"), host("B", heard=False)) == {"B"}, "a silent host proves nothing"
    assert seen_on(host("A"), host("B", heard=False, silent=True)) == {"B"}
    assert seen_on(host("A"), host("B", v1="stopped")) == frozenset()
    assert seen_on(host("A"), host("B")) == frozenset()
    assert seen_on(host("A")) == frozenset(), "B was removed from the fleet"


def test_vm_last_seen_on_a_host_that_fell_silent_says_so() -> None:
    verdict = judged(STRAYED, host("A"), host("B", heard=False, silent=True))
    assert verdict == ("absent", "was last seen runn", "vm.misplaced")


def test_unmanaged_vms_are_those_without_a_row() -> None:
    assert set(unmanaged(host("A", v1="running", x="stopped"), frozenset({"v1"}))) == {"x"}


_HOSTS = st.sets(st.sampled_from(["A", "B", "C"])).map(frozenset)
_ROWS = st.builds(
    ROW._replace,
    state=st.sampled_from([VmState.RUNNING, VmState.STOPPED, VmState.FAILED]),
    power_state=st.sampled_from(list(PowerState)),
    attention=st.sampled_from(["", "paused outside Ostler"]),
    home=st.sampled_from(["", "A", "D"]),
    seen_on=_HOSTS,
)
_SEEN = st.sampled_from([None, "running", "stopped", "paused"])


@given(row=_ROWS, seen=st.tuples(_SEEN, _SEEN, _SEEN), heard=_HOSTS)
def test_no_verdict_is_lost_by_passing_over_vms_that_run_as_recorded(
    row: VmRow, seen: tuple[str | None, ...], heard: frozenset[str]
) -> None:
    hosts = {}
    for id, power in zip("ABC", seen, strict=True):
        hosts[id] = host(id, heard=id in heard, v1=power) if power else host(id, heard=id in heard)
    found = reconcile([row], hosts)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reconciling, "_is_settled", lambda *_: False)
        assert reconcile([row], hosts) == found


def test_vms_that_run_as_recorded_cost_no_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    """All VMs of a fleet are compared every few seconds, and nearly all are so."""
    rows = [ROW._replace(vm_id=f"v{number}") for number in range(100)]
    hosts = {"A": running("A", [row.vm_id for row in rows]), "B": host("B")}
    monkeypatch.setattr(reconciling, "_judge", lambda *_: pytest.fail("a settled VM was judged"))
    assert reconcile(rows, hosts) == []
