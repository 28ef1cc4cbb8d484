"""The lab's guest image, built once for each version of its script."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from pathlib import Path

from tests.lab.host import REPOSITORY

SCRIPT = Path(__file__).with_name("build-guest.sh")
CACHE = REPOSITORY / ".cache"


def guest_image() -> Path:
    """A small bootable qcow2 (see build-guest.sh), read-only by agreement; takes some seconds the first time."""
    return _built("guest", ".qcow2")


def vmware_guest_image() -> Path:
    """A stream-optimized VMDK of a guest that boots on VMware's devices and not on virtio, read-only by agreement."""
    return _built("vmware-guest", ".vmdk", "--vmware")


def vmware_uefi_guest_image() -> Path:
    """Like `vmware_guest_image`, of a guest that boots with UEFI."""
    return _built("vmware-uefi-guest", ".vmdk", "--vmware", "--uefi")


def uefi_guest_image() -> Path:
    """Like `guest_image`, of a guest that boots with UEFI, by an unsigned boot loader."""
    return _built("uefi-guest", ".qcow2", "--uefi")


def fio_guest_image() -> Path:
    """Like `guest_image`, with fio: `io` runs it."""
    return _built("fio-guest", ".qcow2", "--fio")


def _built(name: str, suffix: str, *options: str) -> Path:
    digest = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()[:16]
    image = CACHE / f"{name}-{digest}{suffix}"
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "guest.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            for old in CACHE.glob(f"{name}-*{suffix}"):
                old.unlink()
            subprocess.run([SCRIPT, *options, image], check=True, stdin=subprocess.DEVNULL)
    return image
