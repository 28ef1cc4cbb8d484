"""Small file systems of their own, in memory, to be filled and freed. Only root can mount them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


class SmallDisk:
    """directory: where it is mounted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._filler = directory / "filler"

    def fill(self) -> None:
        """Leaves no byte."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))

    def free(self) -> None:
        """Gives back what `fill` took."""
        self._filler.unlink(missing_ok=True)

    def grow(self, size_bytes: int) -> None:
        """Has this size from now on."""
        subprocess.run(["mount", "-o", f"remount,size={size_bytes}", self.directory], check=True)


@contextlib.contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """directory: is made."""
    directory.mkdir(mode=0o700)
    options = f"size={size_bytes},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "ostler-small", directory], check=True)
    try:
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
