"""Detects changes of the installed software."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

# The package databases: dpkg's, and rpm's in its various locations.
DATABASES = (
    Path("/var/lib/dpkg/status"),
    Path("/var/lib/rpm/rpmdb.sqlite"),
    Path("/usr/lib/sysimage/rpm/rpmdb.sqlite"),
    Path("/var/lib/rpm/Packages"),
)
PROGRAMS = (
    "qemu-img",
    "qemu-storage-daemon",
    "cryptsetup",
    "virt-v2v-in-place",
    "guestfish",
    "nbdkit",
    "supermin",
    "ovftool",
)


def stamp(
    databases: Sequence[Path] = DATABASES, programs: Sequence[str] = PROGRAMS
) -> tuple[tuple[str, int, int], ...]:
    """Returns a value that changes when a package, or one of the programs, is installed or removed."""
    found = [shutil.which(program) for program in programs]
    stamps = []
    for path in [*databases, *(Path(program) for program in found if program)]:
        try:
            stat = path.stat()
        except OSError:
            continue
        stamps.append((str(path), stat.st_ino, stat.st_mtime_ns))
    return tuple(stamps)
