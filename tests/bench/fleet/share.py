"""Gives a process a share of a core, as if it ran on a slow machine of its own: a control group with a quota.

Several control planes on a machine with few cores take each other's time. With shares that are small enough for all of
them, the database, the agents and the clients, they do not. The files are those of cgroups(7).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# Short, so that a process that has used up its quota does not look silent to others.
_PERIOD_US = 20_000
_REMOVE_TIMEOUT_S = 5.0


@contextlib.contextmanager
def limited(pid: int, share: float, root: Path = ROOT) -> Iterator[None]:
    """Inside, the process and its children get at most this share of a core. Needs root; the process ends inside."""
    quota_us = max(int(share * _PERIOD_US), 1_000)
    unified = (root / "cgroup.controllers").exists()
    group = (root if unified else root / "cpu") / f"ostler-bench-{pid}"
    if unified:
        (root / "cgroup.subtree_control").write_text("+cpu")
    group.mkdir()
    try:
        if unified:
            (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    while True:
        try:
            group.rmdir()
            return
        except OSError:  # its last process is not quite gone
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
