"""Zeroes and syncs block devices."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from ostler_agent.process import run

_BLKZEROOUT = 0x127F
_RANGE = struct.Struct("QQ")  # offset, length; bytes
_PIECE_BYTES = 1 << 30


def zero(device: Path, start: int, end: int) -> None:
    """Zeroes a byte range of a device, durably.

    Lets the device deallocate or zero the range itself where it can, else writes zeros.
    """
    file = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in range(start, end, _PIECE_BYTES):
            length = min(_PIECE_BYTES, end - offset)
            # On a device, the kernel guarantees zeros afterwards, or fails.
            where = [f"--offset={offset}", f"--length={length}"]
            if run(["fallocate", "--punch-hole", *where, device], check=False).exit_code:
                fcntl.ioctl(file, _BLKZEROOUT, _RANGE.pack(offset, length))
        os.fsync(file)
    finally:
        os.close(file)


def sync(device: Path) -> None:
    """Flushes a device's cached writes."""
    file = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
