"""Probes what systemd-nspawn can do on this host."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ostler_agent.capabilities.facts import HypervisorFacts, attempt
from ostler_agent.process import run

from ostler_nspawn_driver import cgroups

TIMEOUT_S = 20.0
_PROBE_GROUP = "probe"


def probe() -> HypervisorFacts:
    """Runs the probes. Never raises: a failure is a failed probe."""
    version = attempt("systemd-nspawn", _version)
    cpuinfo = Path("/proc/cpuinfo").read_text()
    return HypervisorFacts(
        hypervisor_version=version.detail,
        domain_types=("container",),
        cpu_model=_first(r"model name\s*: (.*)", cpuinfo, "unknown"),
        cpus=os.cpu_count() or 1,
        cpu_mhz=int(float(_first(r"cpu MHz\s*: ([\d.]+)", cpuinfo, "0"))),
        memory_bytes=int(_first(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), "0")) << 10,
        numa_nodes=len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1,
        probes=(version, attempt("loop-devices", _loop_devices), attempt("limits", _limits)),
    )


def _version() -> str:
    return _first(r"systemd (\d+)", run(["systemd-nspawn", "--version"], timeout_s=TIMEOUT_S).stdout, "unknown")


def _loop_devices() -> str:
    return run(["losetup", "--find"], timeout_s=TIMEOUT_S).stdout.strip()


def _limits() -> str:
    cgroups.create(_PROBE_GROUP, 1, 64 << 20)
    cgroups.remove(_PROBE_GROUP)
    return "control groups, version 2" if cgroups.is_unified() else "control groups, version 1"


def _first(pattern: str, text: str, default: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else default
