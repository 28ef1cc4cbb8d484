"""mount(8), and what is mounted where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ostler_agent.process import run

MOUNTINFO = Path("/proc/self/mountinfo")
MOUNT_TIMEOUT_S = 120


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. options: of the file system."""

    path: Path
    fs_type: str
    source: str
    options: frozenset[str] = frozenset()


def parse_mountinfo(text: str) -> list[Mount]:
    """Parses /proc/self/mountinfo (proc(5)). A later mount on a path covers an earlier one."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fs_type, source, *rest = after.split(" ")
        options = frozenset(rest[0].split(",")) if rest else frozenset()
        mounts.append(Mount(Path(_unescape(before.split(" ")[4])), fs_type, _unescape(source), options))
    return mounts


def mounts(mountinfo: Path = MOUNTINFO) -> list[Mount]:
    """The mounts that this process sees."""
    return parse_mountinfo(mountinfo.read_text())


def mount(fs_type: str, source: str, directory: Path, options: str = "") -> None:
    """Mounts a file system. Raises RunError."""
    command = ["mount", "-t", fs_type, *(["-o", options] if options else []), "--", source, str(directory)]
    run(command, timeout_s=MOUNT_TIMEOUT_S)


def bind(source: Path, directory: Path) -> None:
    """Makes a directory visible at a second place. Raises RunError."""
    run(["mount", "--bind", "--", str(source), str(directory)], timeout_s=MOUNT_TIMEOUT_S)


def unmount(directory: Path) -> None:
    """Unmounts what is mounted there. Raises RunError."""
    run(["umount", str(directory)], timeout_s=MOUNT_TIMEOUT_S)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
