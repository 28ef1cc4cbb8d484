"""The load of the host and its VMs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ostler_agent.hypervisors.base import VmSample

_IDLE_FIELDS = (3, 4)  # idle, iowait in /proc/stat's first line
_COUNTED_FIELDS = 8  # user time includes guest time


@dataclass(frozen=True)
class VmLoad:
    """Load of a VM. cpu_used: in CPUs (1.5: one and a half)."""

    vm_id: str
    cpu_used: float
    memory_rss_bytes: int
    memory_guest_used_bytes: int
    dirty_rate_bytes_per_s: int = 0


@dataclass(frozen=True)
class HostLoad:
    """Load of the host. cpu_used: in CPUs; *_pressure: percent of the last 10 s, None without PSI in the kernel."""

    cpu_used: float
    cpus: int
    memory_used_bytes: int
    memory_total_bytes: int
    cpu_pressure: float | None
    memory_pressure: float | None
    io_pressure: float | None
    vms: tuple[VmLoad, ...]


class LoadMeter:
    """Measures load between two calls of `measure`; use one meter per caller. proc: the kernel's counters."""

    def __init__(self, proc: Path = Path("/proc"), now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._proc = proc
        self._busy_then = parse_busy_ticks((proc / "stat").read_text())
        self._vms_then: Mapping[str, int] = {}
        self._then = now()

    def measure(self, samples: Sequence[VmSample]) -> HostLoad:
        """Load since the last call. A VM that is new since then counts from the next call on."""
        stat, now = (self._proc / "stat").read_text(), self._now()
        elapsed_s = max(now - self._then, 1e-3)
        busy = parse_busy_ticks(stat)
        busy_s = (busy - self._busy_then) / os.sysconf("SC_CLK_TCK")
        vms = tuple(self._vm(sample, elapsed_s) for sample in samples)
        self._busy_then, self._then = busy, now
        self._vms_then = {sample.vm_id: sample.cpu_time_ns for sample in samples}
        total_bytes, available_bytes = parse_memory((self._proc / "meminfo").read_text())
        return HostLoad(
            cpu_used=max(0.0, busy_s / elapsed_s),
            cpus=parse_cpus(stat),
            memory_used_bytes=total_bytes - available_bytes,
            memory_total_bytes=total_bytes,
            cpu_pressure=self._pressure("cpu"),
            memory_pressure=self._pressure("memory"),
            io_pressure=self._pressure("io"),
            vms=vms,
        )

    def _vm(self, sample: VmSample, elapsed_s: float) -> VmLoad:
        used_ns = sample.cpu_time_ns - self._vms_then.get(sample.vm_id, sample.cpu_time_ns)
        return VmLoad(
            sample.vm_id,
            max(0.0, used_ns / 1e9 / elapsed_s),
            sample.rss_bytes,
            sample.guest_used_bytes,
            sample.dirty_rate_bytes_per_s,
        )

    def _pressure(self, resource: str) -> float | None:
        try:
            return parse_pressure((self._proc / "pressure" / resource).read_text())
        except OSError:
            return None  # an old kernel lacks the file; with psi=0 reading it fails


def parse_busy_ticks(stat: str) -> int:
    """Busy ticks of all CPUs together, from /proc/stat."""
    ticks = [int(word) for word in stat.split("\n", 1)[0].split()[1 : 1 + _COUNTED_FIELDS]]
    return sum(count for field, count in enumerate(ticks) if field not in _IDLE_FIELDS)


def parse_cpus(stat: str) -> int:
    """CPUs online, from /proc/stat."""
    return sum(1 for line in stat.splitlines() if line.startswith("cpu") and line[3].isdigit())


def parse_memory(meminfo: str) -> tuple[int, int]:
    """Total and available bytes, from /proc/meminfo."""
    values = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    return _kib(values["MemTotal"]), _kib(values["MemAvailable"])


def parse_pressure(text: str) -> float:
    """Share of the last 10 s in which some task waited, percent, from a PSI file."""
    some = next(line for line in text.splitlines() if line.startswith("some "))
    return float(dict(word.split("=") for word in some.split()[1:])["avg10"])


def _kib(value: str) -> int:
    return int(value.split()[0]) * 1024
