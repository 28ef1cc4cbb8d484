"""The file systems in a guest's disks, and which of them a path belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ostler_common.errors import FailedPreconditionError, NotFoundError
from ostler_common.text import printable, shortened

from ostler_agent.tools.guestfish import Appliance

MAX_FILE_SYSTEMS = 64
MAX_TEXT = 256
_INSPECTION_TIMEOUT_S = 900.0
_LINE = re.compile(r"((?:btrfsvol:)?/dev/[^\s\x00-\x1f\x7f]{1,240}): ([\w.+-]{1,64})")
_SUBVOLUME = "btrfsvol:"
# What libguestfs lists beside file systems.
_NONE = frozenset({"unknown", "swap", "crypto_LUKS", "BitLocker", "LVM2_member", "linux_raid_member"})


@dataclass(frozen=True)
class FileSystem:
    """A file system, or what is in its place.

    name: of its device in the appliance; raw_name: what libguestfs calls it there, see `parse`; subvolume: of btrfs.
    """

    name: str
    type: str
    label: str = ""
    size_bytes: int = 0
    raw_name: str = ""
    device: str = ""
    subvolume: str = ""

    @property
    def is_readable(self) -> bool:
        return self.type not in _NONE


def file_systems(appliance: Appliance) -> list[FileSystem]:
    """All that there are, MAX_FILE_SYSTEMS at most."""
    found = []
    for one in parse(_lines(appliance.ask("list-filesystems"))[:MAX_FILE_SYSTEMS]):
        label = _line(appliance.ask("vfs-label", one.device, optional=True))
        size = "" if one.subvolume else _line(appliance.ask("blockdev-getsize64", one.device, optional=True))
        found.append(replace(one, label=label, size_bytes=int(size) if size.isdecimal() else 0))
    return found


def parse(lines: Sequence[str]) -> list[FileSystem]:
    """The file systems in what `list-filesystems` prints: each subvolume of btrfs follows its device.

    The appliance's kernel names disks in the order in which it gets to them, its own among them. libguestfs calls
    the first disk sda nevertheless, but not in the names of subvolumes: there it may be sdb.
    """
    found, device = [], ""
    for match in filter(None, map(_LINE.fullmatch, lines)):
        raw, kind = match.groups()
        place = raw.removeprefix(_SUBVOLUME)
        if place == raw:
            device = raw
            found.append(FileSystem(raw, kind, raw_name=raw, device=raw))
        elif device:
            # The name of a logical volume has a second slash, and is as in the device's line.
            in_order = place.startswith(device + "/")
            path = place[len(device) + 1 :] if in_order else place.removeprefix("/dev/").partition("/")[2]
            found.append(FileSystem(f"{_SUBVOLUME}{device}/{path}", kind, raw_name=raw, device=device, subvolume=path))
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
        chosen = next((one for one in readable if one.name == wanted), None)
        if not chosen:
            raise NotFoundError(
                f"there is no file system {printable(wanted)} that can be read; there are: {_named(found)}",
                "FILE_SYSTEM_NOT_FOUND",
            )
        _mount(appliance, chosen, "/")
    elif len(readable) == 1:
        _mount(appliance, readable[0], "/")
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
    places = _lines(appliance.ask("inspect-get-mountpoints", roots[0]))
    by_name = {one.raw_name: one for one in found}
    for place, _, name in sorted((line.partition(": ") for line in places), key=lambda line: len(line[0])):
        # A file system that the guest names and that is not there, or is broken, hides only its own files.
        _mount(appliance, by_name.get(name) or FileSystem(name, "", device=name), place, optional=place != "/")


def _mount(appliance: Appliance, one: FileSystem, place: str, *, optional: bool = False) -> None:
    if one.subvolume:
        appliance.ask("mount-vfs", f"ro,subvol={one.subvolume}", "btrfs", one.device, place, optional=optional)
    else:
        appliance.ask("mount-ro", one.device, place, optional=optional)


def _named(found: Sequence[FileSystem]) -> str:
    return shortened(", ".join(f"{one.name} ({one.type})" for one in found), 4 * MAX_TEXT)


def _lines(answer: bytes) -> list[str]:
    return [line for line in answer.decode(errors="backslashreplace").splitlines() if line]


def _line(answer: bytes) -> str:
    """Its first line, safe to show."""
    return next((shortened(printable(line), MAX_TEXT) for line in _lines(answer[: 4 * MAX_TEXT])), "")
