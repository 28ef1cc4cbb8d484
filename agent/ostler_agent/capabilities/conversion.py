"""Instance conversion: the programs that convert guests of other hypervisors."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_agent import process
from ostler_agent.capabilities.facts import Probe, attempt

_TIMEOUT_S = 30


def probe(virtio_win: Path) -> list[Probe]:
    """Probes what every conversion needs (family "instance-conversion") and what some need."""
    return [
        attempt("instance-conversion.virt-v2v", _virt_v2v),
        attempt("instance-conversion.nbdkit", lambda: _version("nbdkit", r"nbdkit (\S+)")),
        attempt("instance-conversion.nbdcopy", lambda: _version("nbdcopy", r"nbdcopy (\S+)")),
        attempt("windows-conversion.virtio-win", lambda: _virtio_win(virtio_win)),
        attempt("ovftool", lambda: _version("ovftool", r"ovftool (\S+)")),
    ]


def _virt_v2v() -> str:
    features = process.run(("virt-v2v", "--machine-readable"), timeout_s=_TIMEOUT_S).stdout.split()
    if "input:ova" not in features:
        raise FailedPreconditionError(
            "this virt-v2v cannot read OVA files (install a full build of it)", "PROBE_FAILED"
        )
    return _version("virt-v2v", r"virt-v2v (\S+)")


def _virtio_win(directory: Path) -> str:
    if not directory.exists():
        raise FailedPreconditionError(
            f"no Windows drivers at {directory} (install virtio-win, or set virtio_win)", "VIRTIO_WIN_MISSING"
        )
    return str(directory)


def _version(program: str, pattern: str) -> str:
    said = process.run((program, "--version"), timeout_s=_TIMEOUT_S)
    match = re.search(pattern, said.stdout + said.stderr, re.IGNORECASE)
    return match[1] if match else (shutil.which(program) or "")
