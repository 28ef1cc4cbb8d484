"""QEMU's image locks: whether a QEMU on any host that shares the file system has an image open."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_agent.image_header import is_device

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
# The bytes that QEMU locks (block/file-posix.c): from 100 the permissions it uses, from 200 those it denies others.
_FIRST, _LENGTH = 100, 200
_WRITES, _WRITE_KINDS = 101, 3  # write, write-unchanged, resize
_NO_WRITES = 201
_NO_LOCKS = (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP)  # from file systems without locks


def check_not_locked(path: Path) -> None:
    """Raises FailedPreconditionError (VOLUME_IN_USE) if a QEMU on any host has the image open.

    A missing file, or one on a file system without locks, counts as unused.
    """
    follow = 0 if is_device(path) else os.O_NOFOLLOW
    try:
        file = os.open(path, os.O_RDWR | follow | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _check_not_locked(file, path, _FIRST, _LENGTH)
    finally:
        os.close(file)


def wait_until_unlocked(path: Path, timeout_s: float = 10.0) -> None:
    """Waits until no QEMU has the image open. QEMU closes an image a moment after it reports that a job has ended.

    Raises FailedPreconditionError (VOLUME_IN_USE) after timeout_s.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            return check_not_locked(path)
        except FailedPreconditionError:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def block_writers(file: int, path: Path) -> None:
    """Prevents every QEMU from opening an image for writing while the descriptor is open; readers are admitted.

    Raises FailedPreconditionError (VOLUME_IN_USE) if a QEMU has it open for writing. No effect on a file system without
    locks.
    """
    try:
        wanted = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _NO_WRITES, 1, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, *_NO_LOCKS):
            raise
    _check_not_locked(file, path, _WRITES, _WRITE_KINDS)


def _check_not_locked(file: int, path: Path, first: int, length: int) -> None:
    try:
        wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, length, 0)
        found = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, wanted))[0]
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return
    if found != fcntl.F_UNLCK:
        raise FailedPreconditionError(
            f"{path.name} is in use, perhaps on another host (stop the VM or detach the volume first)",
            "VOLUME_IN_USE",
            {"file": path.name},
        )
