"""Loads in memory: which of them reach a host's row, and what is shown meanwhile."""

from __future__ import annotations

import pytest
from ostler.types.v1.vm_pb2 import HostLoad, VmLoad
from ostler_control.fleet import store
from ostler_control.fleet.loads import REFRESH_S, Loads
from ostler_control.fleet.smoothing import ENOUGH, STALE_S, Smooth
from ostler_control.hosts import loads as host_loads
from ostler_control.hosts.choose import load_of
from ostler_control.models import Host

from tests.fleets import GIB, make_fleet

CPUS = 64


def load(cpu: float = 4.0, memory_gib: int = 16, pressure: float = 0.0, vms: tuple[str, ...] = ("a",)) -> HostLoad:
    return HostLoad(
        cpu_used=cpu,
        cpus=CPUS,
        memory_used_bytes=memory_gib * GIB,
        memory_total_bytes=256 * GIB,
        cpu_pressure=pressure,
        vms=[VmLoad(vm_id=vm, cpu_used=1.0, memory_rss_bytes=GIB) for vm in vms],
    )


def settled(at_s: float = 1000.0) -> tuple[Loads, float]:
    """Loads of one host whose row was written, and the present."""
    loads = Loads(chance=lambda low, high: high)
    for number in range(ENOUGH):
        records = loads.add({"h": load()}, at_s + 5 * number)
        assert set(records) == {"h"}, "until there is enough of it, every load is written"
        loads.written(records)
    return loads, at_s + 5 * ENOUGH


def test_a_steady_host_is_written_once_a_minute() -> None:
    loads, now_s = settled()
    written = 0
    for number in range(720):  # an hour
        records = loads.add({"h": load(cpu=4.0 + number % 3)}, now_s + 5 * number)
        loads.written(records)
        written += len(records)
    assert 3600 / REFRESH_S[1] - 2 <= written <= 3600 / REFRESH_S[0]
    assert REFRESH_S[1] + 30 < STALE_S, "a row is new enough for DRS, with time to spare"


@pytest.mark.parametrize("changed", [load(cpu=12.0), load(memory_gib=48), load(vms=("a", "b")), load(vms=())], ids=str)
def test_a_notable_change_is_written_at_once(changed: HostLoad) -> None:
    loads, now_s = settled()
    assert loads.add({"h": load(cpu=5.0)}, now_s) == {}
    assert set(loads.add({"h": changed}, now_s + 5)) == {"h"}


def test_pressure_that_lasts_is_written() -> None:
    loads, now_s = settled()
    steps = [bool(loads.add({"h": load(pressure=90.0)}, now_s + 5 * number)) for number in range(10)]
    assert steps[0] is False
    assert any(steps)


def test_what_could_not_be_written_is_still_due() -> None:
    loads, now_s = settled()
    first = loads.add({"h": load(cpu=40.0)}, now_s)
    assert set(first) == {"h"}
    assert set(loads.add({"h": load(cpu=40.0)}, now_s + 5)) == {"h"}, "the database was away"
    loads.written(first)
    assert loads.add({"h": load(cpu=40.0)}, now_s + 10) == {}


def test_a_host_that_is_watched_again_continues_from_its_row() -> None:
    loads, now_s = settled()
    loads.forget(["h"])
    assert loads.unknown(["h"]) == ["h"]
    loads.resume({"h": Smooth(cpu_used=10.0, samples=9, time_s=now_s)})
    (record,) = loads.add({"h": load()}, now_s + 5).values()
    assert record.average.samples == 10
    assert 9.0 < record.average.cpu_used < 10.0


def test_rows_follow_and_memory_leads(fresh_database: str) -> None:
    host = make_fleet(1, cpus=CPUS, capabilities="").hosts[0]
    kept = Loads()
    host_id = str(host.id)
    assert [store.set_loads({host_id: load()}, kept) for _ in range(ENOUGH + 2)] == [1] * ENOUGH + [0, 0]
    row = Host.get_by_id(host_id)
    assert load_of(row) == pytest.approx(4.0 / CPUS)
    try:
        host_loads.hear({host_id: load(cpu=8.0)})
        assert load_of(row) == pytest.approx(8.0 / CPUS)
    finally:
        host_loads.forget([host_id])
    assert load_of(row) == pytest.approx(4.0 / CPUS)
