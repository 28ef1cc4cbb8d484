"""A tiny operating system for containers, as a raw image: it counts on the console, and has a root shell there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ostler_nspawn_driver.keeper import POWER_OFF_SIGNAL

SIZE_BYTES = 16 << 20
READY = "tick 1"
_COMMANDS = ("sh", "cat", "echo", "sleep", "ip", "ls", "id", "hostname", "sync", "grep", "test")
_INIT = f"""\
#!/bin/sh
exec </dev/console >/dev/console 2>&1
trap 'echo POWER-BUTTON; exit 0' {int(POWER_OFF_SIGNAL)}
(n=0; while sleep 1; do n=$((n + 1)); echo "tick $n"; done) &
while :; do /bin/sh </dev/console & wait $!; done
"""


def container_image(directory: Path) -> Path:
    """Builds the image in a directory; takes less than a second."""
    root = directory / "root"
    for name in ("bin", "sbin", "etc", "usr", "proc", "sys", "dev", "run", "tmp", "var", "root", "mnt"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for command in _COMMANDS:
        (root / "bin" / command).symlink_to("busybox")
    (root / "etc/os-release").write_text("ID=tiny\nNAME=Tiny\n")
    (root / "sbin/init").write_text(_INIT)
    (root / "sbin/init").chmod(0o755)
    image = directory / "container.raw"
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-d", root, image], check=True)
    shutil.rmtree(root)
    return image
