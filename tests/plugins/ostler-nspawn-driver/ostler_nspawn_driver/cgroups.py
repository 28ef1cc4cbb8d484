"""Control groups of VMs: limits of CPU, memory and processes, and what a VM uses (cgroups(7)).

Each VM has one group in each hierarchy, below `ostler`: beside systemd's own, for these outlive the agent's unit.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_GROUP = "ostler"
_PERIOD_US = 100_000
_MAX_PROCESSES = 8192  # the host has its own limit for all together, which no container is to reach
_REMOVE_TIMEOUT_S = 5.0
# Controllers of version 1, and the hierarchies in which systemd in the container has its own groups.
_V1 = ("memory", "cpu", "cpuacct", "pids", "systemd", "unified")


def is_unified(root: Path = ROOT) -> bool:
    """Whether the host has version 2 only."""
    return (root / "cgroup.controllers").exists()


def create(vm_id: str, cpus: int, memory_bytes: int, root: Path = ROOT) -> list[Path]:
    """Creates a VM's groups with its limits; returns the files that a process enters them by. Raises OSError."""
    quota_us = cpus * _PERIOD_US
    if is_unified(root):
        parent = root / _GROUP
        parent.mkdir(exist_ok=True)
        for directory in (root, parent):
            (directory / "cgroup.subtree_control").write_text("+cpu +memory +pids")
        group = parent / vm_id
        group.mkdir(exist_ok=True)
        (group / "memory.max").write_text(str(memory_bytes))
        (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        (group / "pids.max").write_text(str(_MAX_PROCESSES))
        # systemd-nspawn makes groups below its own, whose processes must then all be in one of those.
        inner = group / "container"
        inner.mkdir(exist_ok=True)
        return [inner / "cgroup.procs"]
    groups = _v1_groups(vm_id, root)
    for group in groups:
        group.mkdir(parents=True, exist_ok=True)
    (root / "memory" / _GROUP / vm_id / "memory.limit_in_bytes").write_text(str(memory_bytes))
    (root / "cpu" / _GROUP / vm_id / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
    (root / "cpu" / _GROUP / vm_id / "cpu.cfs_quota_us").write_text(str(quota_us))
    (root / "pids" / _GROUP / vm_id / "pids.max").write_text(str(_MAX_PROCESSES))
    return [group / "cgroup.procs" for group in groups]


def usage(vm_id: str, root: Path = ROOT) -> tuple[int, int]:
    """CPU time in ns and memory in bytes that a VM uses; zeros without its groups."""
    try:
        if is_unified(root):
            group = root / _GROUP / vm_id
            line = next(line for line in (group / "cpu.stat").read_text().splitlines() if line.startswith("usage_usec"))
            return int(line.split()[1]) * 1000, int((group / "memory.current").read_text())
        cpu_ns = int((root / "cpuacct" / _GROUP / vm_id / "cpuacct.usage").read_text())
        return cpu_ns, int((root / "memory" / _GROUP / vm_id / "memory.usage_in_bytes").read_text())
    except (OSError, StopIteration):
        return 0, 0


def remove(vm_id: str, root: Path = ROOT) -> None:
    """Removes a VM's groups, once their last processes have gone."""
    groups = [root / _GROUP / vm_id] if is_unified(root) else _v1_groups(vm_id, root)
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    while any(not _removed(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.05)


def _removed(group: Path) -> bool:
    inner = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True) if group.exists() else []
    with suppress(OSError):  # a process is still in it
        for directory in (*inner, group):
            if directory.exists():
                directory.rmdir()
    return not group.exists()


def _v1_groups(vm_id: str, root: Path) -> list[Path]:
    return [root / hierarchy / _GROUP / vm_id for hierarchy in _V1 if (root / hierarchy).exists()]
