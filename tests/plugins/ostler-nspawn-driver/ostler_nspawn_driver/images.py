"""Locks and mounts raw images. Runs in the keeper, with a mount namespace of its own."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import signal
import struct
import subprocess
import time
from pathlib import Path

_CLONE_NEWNS, _MS_REC, _MS_SLAVE, _PR_SET_PDEATHSIG = 0x00020000, 0x4000, 0x80000, 1
# struct flock: type, whence, start, length, pid. The bytes are those that QEMU locks (block/file-posix.c): a writer
# of all of them excludes every QEMU, and the agent refuses to copy, grow or delete the image.
_FLOCK = struct.Struct("hhqqi4x")
_FIRST_BYTE, _LENGTH = 100, 200
_LOCK_TIMEOUT_S = 3.0  # an agent that looks whether an image is in use holds no lock; a container that ends does
_NO_LOCKS = (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP)  # from file systems without locks
# Types of partitions that hold a root file system (the Discoverable Partitions Specification), then any of Linux.
_ROOTS = ("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "B921B045-1DF0-41C3-AF44-4C6F280D3FAE")
_LINUX = ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "83")
_RELEASES = ("etc/os-release", "usr/lib/os-release")
_INITS = ("usr/lib/systemd/systemd", "lib/systemd/systemd", "sbin/init")
_TOOL_TIMEOUT_S = 20


class DiskInUseError(Exception):
    """Another process writes to the image."""


def lock(path: str) -> int:
    """Locks an image for this process and those that inherit the descriptor.

    Raises DiskInUseError; OSError, also for a link.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _FIRST_BYTE, _LENGTH, 0)
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
            return descriptor
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            if error.errno not in (errno.EACCES, errno.EAGAIN) or time.monotonic() > deadline:
                os.close(descriptor)
                raise DiskInUseError(path) from None
        time.sleep(0.05)


def own_mounts() -> None:
    """Gives this process a mount namespace: what it mounts ends with it and its children. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    for result in (
        libc.unshare(_CLONE_NEWNS),
        libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None),
    ):
        if result:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The ids of a process's children. Raises OSError if it has ended."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def mount(image: str, at: Path) -> bool:
    """Mounts the Linux file system of an image; False if it has none that the kernel knows."""
    at.mkdir(exist_ok=True)
    options = "loop,nodev" if (offset := _root_offset(image)) is None else f"loop,nodev,offset={offset}"
    return _tool("mount", "-o", options, image, os.fspath(at)).returncode == 0


def is_operating_system(root: Path) -> bool:
    """Whether there is what systemd-nspawn boots."""
    return any(os.path.lexists(root / file) for file in _RELEASES) and any(
        os.path.lexists(root / file) for file in _INITS
    )


def _root_offset(image: str) -> int | None:
    """Where the root partition begins, in bytes; None without a partition table."""
    done = _tool("sfdisk", "--json", image)
    if done.returncode:
        return None
    table = json.loads(done.stdout)["partitiontable"]
    partitions = table.get("partitions", [])
    for types in (_ROOTS, _LINUX):
        of_type = [each for each in partitions if each["type"].upper() in types]
        if of_type:
            largest = max(of_type, key=lambda each: int(each["size"]))
            return int(largest["start"]) * int(table.get("sectorsize", 512))
    return None


def _tool(*command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TOOL_TIMEOUT_S, check=False)
