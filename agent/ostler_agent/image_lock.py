"""Whether QEMU has an image open, anywhere that shares the file system's locks."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from ostler_common.errors import FailedPreconditionError

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
_FIRST, _LENGTH = 100, 200  # the bytes on which QEMU keeps its locks


def refuse_locked(path: Path) -> None:
    """Raises FailedPreconditionError (VOLUME_IN_USE) when a QEMU on any host has the image open.

    A file system without locks, or a file that is not there, counts as not in use.
    """
    follow = 0 if path.is_block_device() else os.O_NOFOLLOW
    try:
        file = os.open(path, os.O_RDWR | follow | os.O_CLOEXEC)
    except OSError:
        return
    try:
        wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _FIRST, _LENGTH, 0)
        found = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, wanted))[0]
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return
    finally:
        os.close(file)
    if found != fcntl.F_UNLCK:
        raise FailedPreconditionError(
            f"{path.name} is in use (stop or detach from what uses it, perhaps on another host)",
            "VOLUME_IN_USE",
            {"file": path.name},
        )
