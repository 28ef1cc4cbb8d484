"""Ganeti's balancer on the same clusters, when it is installed (`apt install ganeti-htools`).

It evens out memory, CPUs and the number of VMs together, so its imbalance of memory alone shows what another tool
reaches, not what it aims at.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from ostler_control.drs import Snapshot
from ostler_control.drs.imbalance import imbalance

MIB = 1 << 20


def available() -> bool:
    """Whether hbal is installed."""
    return shutil.which("hbal") is not None


def hbal(snapshot: Snapshot, most: int) -> float:
    """The imbalance of memory after at most so many moves of hbal. All hosts must be alike, without groups."""
    hosts = {host.id: (host.memory_bytes - host.reserved_memory_bytes) // MIB for host in snapshot.hosts}
    used = Counter[str]()
    for vm in snapshot.vms:
        used[vm.host_id] += vm.memory_bytes // MIB
    lines = ["default|group-1|preferred||", ""]
    for name, total in hosts.items():
        lines.append(f"{name}|{total}|0|{total - used[name]}|10000000|10000000|512|N|group-1|1||N|0|0|1.0")
    lines.append("")
    lines += [f"{v.id}|{v.memory_bytes // MIB}|0|1|running|Y|{v.host_id}||ext||1|-" for v in snapshot.vms]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        (path / "cluster").write_text("\n".join([*lines, "", "", ""]))
        command = ["hbal", "-t", "cluster", "-S", "out", "-l", str(most), "-q"]
        subprocess.run(command, cwd=path, check=True, capture_output=True, timeout=120)
        rows = [line.split("|") for line in (path / "out.balanced").read_text().splitlines()]
    after = Counter[str]()
    for row in rows:
        if len(row) > 9 and row[8] == "ext":
            after[row[6]] += int(row[1])
    return imbalance(np.array([after[name] / total for name, total in hosts.items()]))
