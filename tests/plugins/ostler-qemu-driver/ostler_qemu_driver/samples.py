"""The kernel's counters of a process."""

from __future__ import annotations

import os
from pathlib import Path

from ostler_agent.hypervisors.base import VmSample

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_UTIME, _STIME, _RSS = 11, 12, 21  # fields of /proc/PID/stat after the name, which may contain anything


def sample(vm_id: str, pid: int) -> VmSample | None:
    """The VM's counters; None if the process has exited."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return parse(vm_id, text)


def parse(vm_id: str, stat: str) -> VmSample:
    """Parses /proc/PID/stat (proc(5)). Does not query the balloon device."""
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    return VmSample(vm_id, cpu_time_ns=ticks * _TICK_NS, rss_bytes=int(fields[_RSS]) * _PAGE_BYTES, guest_used_bytes=0)
