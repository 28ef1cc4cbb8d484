"""Probes what QEMU can do on this host."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

from ostler_agent.capabilities.facts import HypervisorFacts, attempt
from ostler_agent.process import run

TIMEOUT_S = 20.0
_QUIT = b'{"execute": "qmp_capabilities"} {"execute": "quit"}'


def probe(qemu: str, accel: str) -> HypervisorFacts:
    """Runs the probes. Never raises: a failure is a failed probe."""
    version = attempt("qemu", lambda: _version(qemu))
    accelerators = [name for name in ("kvm", "tcg") if accel in ("auto", name)]
    tried = {name: attempt("accelerator", partial(_accelerate, qemu, name)) for name in accelerators}
    working = [name for name in accelerators if tried[name].ok]
    cpuinfo = Path("/proc/cpuinfo").read_text()
    return HypervisorFacts(
        hypervisor_version=version.detail,
        domain_types=tuple(working),
        cpu_model=_first(r"model name\s*: (.*)", cpuinfo, "unknown"),
        cpus=os.cpu_count() or 1,
        cpu_mhz=int(float(_first(r"cpu MHz\s*: ([\d.]+)", cpuinfo, "0"))),
        memory_bytes=int(_first(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), "0")) << 10,
        numa_nodes=len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1,
        probes=(version, tried[(working or accelerators)[0]]),
    )


def _version(qemu: str) -> str:
    return _first(r"version ([\d.]+)", run([qemu, "--version"], timeout_s=TIMEOUT_S).stdout, "unknown")


def _accelerate(qemu: str, name: str) -> str:
    """Raises RunError when QEMU cannot use the accelerator."""
    nothing = [qemu, "-machine", "none", "-nodefaults", "-display", "none", "-accel", name, "-qmp", "stdio"]
    run(nothing, stdin=_QUIT, timeout_s=TIMEOUT_S)
    return name


def _first(pattern: str, text: str, default: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else default
