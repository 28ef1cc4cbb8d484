"""Instance conversion: the programs that convert guests of other hypervisors, or read their disks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_agent import process
from ostler_agent.capabilities.facts import Probe, attempt
from ostler_agent.tools import ovftool

_TIMEOUT_S = 30


FUSE = Path("/dev/fuse")
BOOT = Path("/boot")

# Debian's and Ubuntu's packages, by program.
_PACKAGES = {
    "guestfish": "guestfish",
    "virt-v2v-in-place": "virt-v2v, 2.2 or newer",
    "nbdkit": "nbdkit",
    "qemu-storage-daemon": "qemu-system-common",
    "supermin": "supermin",
}


def probe(virtio_win: Path, fuse: Path = FUSE, boot: Path = BOOT) -> list[Probe]:
    """Probes what every conversion needs (family "instance-conversion") and what some need.

    fuse: the device of FUSE; boot: where the host's kernels are.
    """
    return [
        attempt("instance-conversion.virt-v2v", _virt_v2v),
        attempt("instance-conversion.nbdkit", lambda: _version("nbdkit", r"nbdkit (\S+)")),
        attempt(
            "instance-conversion.qemu-storage-daemon",
            lambda: _version("qemu-storage-daemon", r"qemu-storage-daemon version (\S+)"),
        ),
        attempt("instance-conversion.fuse", lambda: _fuse(fuse)),
        attempt("instance-conversion.supermin", lambda: _version("supermin", r"supermin (\S+)")),
        attempt("instance-conversion.kernel", lambda: _kernel(boot)),
        attempt("windows-conversion.virtio-win", lambda: _virtio_win(virtio_win)),
        attempt("backup-files.guestfish", lambda: _version("guestfish", r"guestfish (\S+)")),
        attempt("ovftool", ovftool.check_version),
    ]


def _virt_v2v() -> str:
    _check_installed("virt-v2v-in-place")
    features = process.run(("virt-v2v-in-place", "--machine-readable"), timeout_s=_TIMEOUT_S).stdout.split()
    if "input:libvirtxml" not in features:
        raise FailedPreconditionError(
            "this virt-v2v-in-place cannot read libvirt XML (install a full build of it)", "PROBE_FAILED"
        )
    return _version("virt-v2v-in-place", r"virt-v2v-in-place (\S+)")


def _fuse(device: Path) -> str:
    if not device.is_char_device():
        raise FailedPreconditionError(f"{device} is missing (load the kernel module: modprobe fuse)", "PROBE_FAILED")
    return str(device)


def _kernel(boot: Path) -> str:
    """The kernel that the appliance of a conversion boots with."""
    kernels = sorted(boot.glob("vmlinuz-*"))
    if not kernels:
        raise FailedPreconditionError(
            f"there is no kernel in {boot} (on Debian: apt-get install linux-image-amd64; on Ubuntu: "
            "apt-get install linux-image-generic)",
            "PROBE_FAILED",
        )
    return kernels[-1].name.removeprefix("vmlinuz-")


def _virtio_win(directory: Path) -> str:
    if not directory.exists():
        raise FailedPreconditionError(
            f"no Windows drivers at {directory} (install virtio-win, or set virtio_win)", "VIRTIO_WIN_MISSING"
        )
    return str(directory)


def _version(program: str, pattern: str) -> str:
    path = _check_installed(program)
    said = process.run((program, "--version"), timeout_s=_TIMEOUT_S)
    match = re.search(pattern, said.stdout + said.stderr, re.IGNORECASE)
    return match[1] if match else path


def _check_installed(program: str) -> str:
    """The program's path. Raises FailedPreconditionError (TOOL_MISSING)."""
    path = shutil.which(program)
    if path is None:
        raise FailedPreconditionError(
            f"{program} is not installed (on Debian and Ubuntu: apt-get install {_PACKAGES[program]})", "TOOL_MISSING"
        )
    return path
