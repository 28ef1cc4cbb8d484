"""Load from the kernel's and the hypervisor's counters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ostler_agent import host_load
from ostler_agent.host_load import LoadMeter
from ostler_agent.hypervisors.base import VmSample

# user nice system idle iowait irq softirq steal guest guest_nice
STAT = "cpu  {busy} 0 0 {idle} 50 0 0 0 7 0\ncpu0 1 0 0 0 0 0 0 0 0 0\ncpu1 1 0 0 0 0 0 0 0 0 0\nintr 5\n"
MEMINFO = "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:    400 kB\nHugePages_Total: 0\n"
PRESSURE = "some avg10=1.25 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "stat").write_text(STAT.format(busy=1000, idle=1000))
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "pressure").mkdir()
    for resource in ("cpu", "io"):
        (tmp_path / "pressure" / resource).write_text(PRESSURE)
    return tmp_path


def test_parts() -> None:
    stat = STAT.format(busy=1000, idle=1)
    assert host_load.parse_busy_ticks(stat) == 1000  # neither idle nor iowait, and guest time only once
    assert host_load.parse_cpus(stat) == 2
    assert host_load.parse_memory(MEMINFO) == (1000 * 1024, 400 * 1024)
    assert host_load.parse_pressure(PRESSURE) == 1.25


def test_load_is_what_happened_since_the_last_look(proc: Path) -> None:
    now = 100.0
    meter = LoadMeter(proc, lambda: now)
    now += 2
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    (proc / "stat").write_text(STAT.format(busy=1000 + 3 * ticks_per_s, idle=9999))
    first = meter.measure([VmSample("old", 5_000_000_000, 10, 20)])
    assert (first.cpu_used, first.cpus) == (1.5, 2)
    assert (first.memory_used_bytes, first.memory_total_bytes) == (600 * 1024, 1000 * 1024)
    assert (first.cpu_pressure, first.memory_pressure, first.io_pressure) == (1.25, None, 1.25)
    assert [(vm.vm_id, vm.cpu_used) for vm in first.vms] == [("old", 0.0)]  # not known before: no rate yet
    now += 4
    second = meter.measure([VmSample("old", 8_000_000_000, 11, 21), VmSample("new", 99_000_000_000, 0, 0)])
    assert second.cpu_used == 0.0
    assert [(vm.vm_id, vm.cpu_used) for vm in second.vms] == [("old", 0.75), ("new", 0.0)]
    assert (second.vms[0].memory_rss_bytes, second.vms[0].memory_guest_used_bytes) == (11, 21)
    now += 1
    # A VM that was restarted counts from zero again: never negative.
    assert meter.measure([VmSample("old", 1_000_000_000, 0, 0)]).vms[0].cpu_used == 0.0


def test_this_kernel() -> None:
    load = LoadMeter().measure([])
    assert load.cpus == os.cpu_count()
    assert 0 < load.memory_used_bytes < load.memory_total_bytes
