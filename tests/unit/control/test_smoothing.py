"""Hosts' load, smoothed and kept."""

from __future__ import annotations

import pytest
from ostler.types.v1 import vm_pb2
from ostler_control.drs_plans import snapshot
from ostler_control.fleet import store
from ostler_control.fleet.loads import Loads
from ostler_control.fleet.smoothing import ENOUGH, STALE_S, WINDOW_S, Smooth, smooth
from ostler_control.models import Host, Vm

from tests.fleets import GIB, make_fleet


def load(cpu: float, memory_gib: int, **vms: float) -> vm_pb2.HostLoad:
    rows = [vm_pb2.VmLoad(vm_id=name, cpu_used=used, memory_rss_bytes=GIB) for name, used in vms.items()]
    return vm_pb2.HostLoad(cpu_used=cpu, memory_used_bytes=memory_gib * GIB, vms=rows)


def test_an_average_that_forgets() -> None:
    found = smooth(Smooth(), load(2.0, 4, a=1.0), 1000.0)
    assert (found.cpu_used, found.memory_bytes, found.samples, found.vms["a"]) == (2.0, 4 * GIB, 1, (1.0, GIB, 0))
    found = smooth(found, load(4.0, 4, a=1.0, b=3.0), 1005.0)
    assert found.cpu_used == pytest.approx(2.0 + 2.0 * 5 / WINDOW_S, rel=0.02)
    assert found.vms["b"] == pytest.approx((3.0, GIB, 0))
    for step in range(400):
        found = smooth(found, load(8.0, 8), 1010.0 + 5 * step)
    assert found.cpu_used == pytest.approx(8.0, rel=0.01)
    assert found.vms == {}


def test_pressure_is_smoothed_and_kept() -> None:
    pressed = load(1.0, 1)
    pressed.cpu_pressure, pressed.io_pressure = 50.0, 0.0
    found = smooth(Smooth(), pressed, 1000.0)
    assert (found.cpu_pressure, found.memory_pressure, found.io_pressure) == (0.5, None, 0.0)
    pressed.cpu_pressure = 100.0
    found = smooth(found, pressed, 1000.0 + WINDOW_S / 100)
    assert found.cpu_pressure == pytest.approx(0.505, abs=0.001)
    assert Smooth.from_json(found.to_json()) == found
    assert smooth(found, load(1.0, 1), 1010.0).cpu_pressure is None


def test_one_second_more_or_less_makes_no_difference_in_the_end() -> None:
    often = rarely = smooth(Smooth(), load(0.0, 1), 0.0)
    for step in range(60):
        often = smooth(often, load(10.0, 1), step + 1.0)
    for step in range(6):
        rarely = smooth(rarely, load(10.0, 1), 10.0 * (step + 1))
    assert often.cpu_used == pytest.approx(rarely.cpu_used)


def test_little_or_old_is_no_measurement() -> None:
    found = Smooth()
    for step in range(ENOUGH):
        assert not found.usable(step)
        found = smooth(found, load(1.0, 1), float(step))
    assert found.usable(ENOUGH)
    assert not found.usable(ENOUGH + STALE_S)
    assert smooth(found, load(5.0, 1), 1000.0).samples == 1, "a long silence begins it anew"


def test_kept_as_json() -> None:
    found = smooth(Smooth(), load(2.5, 4, a=1.25), 7.0)
    assert Smooth.from_json(found.to_json()) == found
    assert Smooth.from_json("") == Smooth()


def test_what_is_heard_is_what_the_planner_measures(fresh_database: str) -> None:
    fleet = make_fleet(2, capabilities="")
    vm = fleet.vm("vm")
    Vm.update(host=fleet.hosts[0].id, state="running").where(Vm.id == vm.id).execute()
    heard = load(2.0, 8, **{str(vm.id): 1.5})
    heard.vms[0].dirty_rate_bytes_per_s = 123
    kept = Loads()
    for number in range(ENOUGH):
        present = snapshot.take(fleet.cluster)
        assert [host.measured_cpu_mhz for host in present.snapshot.hosts] == [None, None], number
        store.set_loads({str(fleet.hosts[0].id): heard}, kept)
    present = snapshot.take(fleet.cluster)
    measured = {host.id: (host.measured_cpu_mhz, host.measured_memory_bytes) for host in present.snapshot.hosts}
    assert measured == {fleet.hosts[0].id: (2000, 8 * GIB), fleet.hosts[1].id: (None, None)}
    (row,) = present.snapshot.vms
    assert (row.measured_cpu_mhz, row.measured_memory_bytes, row.dirty_rate_bytes_per_s) == (1500, GIB, 123)
    assert Host.get_by_id(fleet.hosts[0].id).load != ""
