"""The file systems in a guest's disks, and which of them a path belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError, NotFoundError
from ostler_common.text import printable, shortened

from ostler_agent.tools.guestfish import Appliance

MAX_FILE_SYSTEMS = 64
MAX_TEXT = 256
_INSPECTION_TIMEOUT_S = 900.0
_LINE = re.compile(r"([^\s\x00-\x1f\x7f]{1,256}): ([\w.+-]{1,64})")
# What libguestfs lists beside file systems.
_NONE = frozenset({"unknown", "swap", "crypto_LUKS", "BitLocker", "LVM2_member", "linux_raid_member"})


@dataclass(frozen=True)
class FileSystem:
    """A file system, or what is in its place. name: of its device in the appliance."""

    name: str
    type: str
    label: str = ""
    size_bytes: int = 0

    @property
    def is_readable(self) -> bool:
        return self.type not in _NONE


def file_systems(appliance: Appliance) -> list[FileSystem]:
    """All that there are, MAX_FILE_SYSTEMS at most."""
    found = []
    for line in _lines(appliance.ask("list-filesystems"))[:MAX_FILE_SYSTEMS]:
        match = _LINE.fullmatch(line)
        if match:
            name, kind = match.groups()
            label = _line(appliance.ask("vfs-label", name, optional=True))
            size = _line(appliance.ask("blockdev-getsize64", name, optional=True))
            found.append(FileSystem(name, kind, label, int(size) if size.isdecimal() else 0))
    return found


def check_readable(found: Sequence[FileSystem]) -> None:
    """Raises FailedPreconditionError NO_FILE_SYSTEM."""
    if any(one.is_readable for one in found):
        return
    there = _named(found) or "nothing"
    raise FailedPreconditionError(
        f"the disks have no file system that can be read, only {there} (a guest's own encryption cannot be opened: "
        "restore the disk or the VM instead)",
        "NO_FILE_SYSTEM",
    )


def mount(appliance: Appliance, found: Sequence[FileSystem], wanted: str) -> None:
    """Mounts what a path is looked for in, read-only. wanted: a file system's name, "" to find out.

    Raises NotFoundError FILE_SYSTEM_NOT_FOUND; FailedPreconditionError FILE_SYSTEM_NEEDED, FILE_SYSTEM_UNREADABLE.
    """
    readable = [one for one in found if one.is_readable]
    if wanted:
        if wanted not in [one.name for one in readable]:
            raise NotFoundError(
                f"there is no file system {printable(wanted)} that can be read; there are: {_named(found)}",
                "FILE_SYSTEM_NOT_FOUND",
            )
        appliance.ask("mount-ro", wanted, "/")
    elif len(readable) == 1:
        appliance.ask("mount-ro", readable[0].name, "/")
    else:
        _mount_as_guest(appliance, found)


def _mount_as_guest(appliance: Appliance, found: Sequence[FileSystem]) -> None:
    """Mounts the file systems where the guest's operating system does."""
    roots = _lines(appliance.ask("inspect-os", optional=True, timeout_s=_INSPECTION_TIMEOUT_S))
    if len(roots) != 1:
        what = "several operating systems" if roots else "no operating system"
        raise FailedPreconditionError(
            f"the disks have {what}, so that it must be said which file system the path belongs to (--filesystem): "
            + _named(found),
            "FILE_SYSTEM_NEEDED",
        )
    places = [line.partition(": ") for line in _lines(appliance.ask("inspect-get-mountpoints", roots[0]))]
    for place, _, device in sorted(places, key=lambda line: len(line[0])):
        # A file system that the guest names and that is not there, or is broken, hides only its own files.
        appliance.ask("mount-ro", device, place, optional=place != "/")


def _named(found: Sequence[FileSystem]) -> str:
    return shortened(", ".join(f"{one.name} ({one.type})" for one in found), 4 * MAX_TEXT)


def _lines(answer: bytes) -> list[str]:
    return [line for line in answer.decode(errors="backslashreplace").splitlines() if line]


def _line(answer: bytes) -> str:
    """Its first line, safe to show."""
    return next((shortened(printable(line), MAX_TEXT) for line in _lines(answer[: 4 * MAX_TEXT])), "")
