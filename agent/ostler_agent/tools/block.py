"""Block devices: zeroed, written out."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from ostler_agent.process import run

_BLKZEROOUT = 0x127F
_RANGE = struct.Struct("QQ")  # where, how much; both in bytes
_PIECE_BYTES = 1 << 30


def zero(device: Path, start: int, end: int) -> None:
    """Has all bytes of a device from start to end read as zeros, durably.

    The device does it itself where it can, best by giving the space back, else they are written.
    """
    file = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in range(start, end, _PIECE_BYTES):
            length = min(_PIECE_BYTES, end - offset)
            # On a device the kernel takes this to mean: zeros afterwards, or an error.
            where = [f"--offset={offset}", f"--length={length}"]
            if run(["fallocate", "--punch-hole", *where, device], check=False).exit_code:
                fcntl.ioctl(file, _BLKZEROOUT, _RANGE.pack(offset, length))
        os.fsync(file)
    finally:
        os.close(file)


def sync(device: Path) -> None:
    """Writes out what the host still holds back of a device."""
    file = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
