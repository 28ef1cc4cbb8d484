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
    digest = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()[:16]
    image = CACHE / f"guest-{digest}.qcow2"
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "guest.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            for old in CACHE.glob("guest-*.qcow2"):
                old.unlink()
            subprocess.run([SCRIPT, image], check=True, stdin=subprocess.DEVNULL)
    return image
