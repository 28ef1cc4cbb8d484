"""Whether QEMU has an image open, anywhere that shares the file system's locks."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from ostler_common.errors import FailedPreconditionError

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
# The bytes on which QEMU keeps its locks: from 100 those of what it does, from 200 those of what others must not.
_FIRST, _LENGTH = 100, 200
_WRITES, _WRITE_KINDS = 101, 3  # writing, writing what is there already, resizing
_NO_WRITES = 201
_NO_LOCKS = (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP)  # of file systems that have none


def check_not_locked(path: Path) -> None:
    """Raises FailedPreconditionError (VOLUME_IN_USE) when a QEMU on any host has the image open.

    A file system without locks, or a file that is not there, counts as not in use.
    """
    follow = 0 if path.is_block_device() else os.O_NOFOLLOW
    try:
        file = os.open(path, os.O_RDWR | follow | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _check_not_locked(file, path, _FIRST, _LENGTH)
    finally:
        os.close(file)


def block_writers(file: int, path: Path) -> None:
    """Has no QEMU on any host open an image for writing while the descriptor (for reading) is open; readers may.

    Raises FailedPreconditionError (VOLUME_IN_USE) when one has. A file system without locks keeps nobody out.
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
            f"{path.name} is in use (stop or detach from what uses it, perhaps on another host)",
            "VOLUME_IN_USE",
            {"file": path.name},
        )
