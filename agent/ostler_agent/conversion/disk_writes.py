"""Writes areas of foreign disks into volumes, encrypted on the way; nothing clear is ever on a disk."""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, bad_field

from ostler_agent.conversion.guest_conversion import DISKS
from ostler_agent.conversion.uploads import MAX_PIECE_BYTES, disk_errors
from ostler_agent.image_lock import check_not_locked
from ostler_agent.jobs import JobContext
from ostler_agent.pools import Pools
from ostler_agent.spec import VolumeRef
from ostler_agent.tools.qemu_storage_daemon import Export, mounted
from ostler_agent.volumes.checks import check_key_matches, check_passphrase_given
from ostler_agent.volumes.images import header_of
from ostler_agent.volumes.locks import VolumeLocks
from ostler_agent.volumes.runtime import VmRuntime, check_unused

_KEEP_SIZE, _ZERO_RANGE = 0x01, 0x10  # linux/falloc.h
# One request to QEMU at most; a whole disk in one call would block the daemon.
_MAX_ZERO_BYTES = 1 << 30
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@dataclass(frozen=True)
class Data:
    """Bytes and their place."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Zero:
    """An area that becomes zeros, bytes."""

    offset: int
    length: int


@dataclass(frozen=True)
class End:
    """What all data, in the order sent, must be. sha256: lower-case hex."""

    sha256: str


@dataclass(frozen=True)
class DiskWrites:
    """Writes into volumes that no VM uses. work_dir: that of `GuestConverter`, which clears it after a crash."""

    pools: Pools
    runtime: VmRuntime
    locks: VolumeLocks
    work_dir: Path

    def receive(self, ref: VolumeRef, pieces: Iterator[Data | Zero | End]) -> int:
        """Writes pieces until the end, and makes them durable. Returns how many bytes of data there were.

        Raises InvalidArgumentError (INVALID_FIELD, KEY_MISSING); FailedPreconditionError (VOLUME_IN_USE,
        NOT_ENCRYPTED, DATA_CORRUPT); ResourceExhaustedError (POOL_FULL); AbortedError (VOLUME_BUSY); NotFoundError
        (VOLUME_NOT_FOUND); what pieces raises.
        """
        check_passphrase_given(ref.key)
        with self.locks.exclusive(ref), self.pools.hold(ref) as path:
            check_unused(self.runtime, ref)
            check_not_locked(path)
            header = header_of(ref, path)
            check_key_matches(ref, header)
            self.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="write.", dir=self.work_dir) as name:
                mount_point = Path(name, DISKS, "0")
                mount_point.parent.mkdir()
                mount_point.touch()
                with mounted([Export(path, ref.format, ref.key, mount_point)], JobContext("write")):
                    return _write(mount_point, header.virtual_size_bytes, pieces)


def _write(path: Path, size_bytes: int, pieces: Iterator[Data | Zero | End]) -> int:
    digest, count = hashlib.sha256(), 0
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with disk_errors("a disk"):
            for piece in pieces:
                if isinstance(piece, End):
                    if digest.hexdigest() != piece.sha256:
                        raise FailedPreconditionError(
                            "the data has another digest than announced (send it again)", "DATA_CORRUPT"
                        )
                    os.fsync(file)
                    return count
                length = len(piece.data) if isinstance(piece, Data) else piece.length
                if piece.offset < 0 or length <= 0 or piece.offset + length > size_bytes:
                    raise bad_field("offset", f"must lie, with the length, within the disk of {size_bytes} bytes")
                if isinstance(piece, Zero):
                    _zero(file, piece)
                    continue
                if length > MAX_PIECE_BYTES:
                    raise bad_field("data", f"must be at most {MAX_PIECE_BYTES} bytes")
                _write_all(file, piece)
                digest.update(piece.data)
                count += length
    finally:
        os.close(file)
    raise bad_field("end", "must be the last message")


def _write_all(file: int, piece: Data) -> None:
    view, offset = memoryview(piece.data), piece.offset
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def _zero(file: int, piece: Zero) -> None:
    """Through fallocate, which QEMU takes as "write zeros" and which takes no space in a qcow2 image."""
    offset, end = piece.offset, piece.offset + piece.length
    while offset < end:
        length = min(_MAX_ZERO_BYTES, end - offset)
        if _libc.fallocate(file, _ZERO_RANGE | _KEEP_SIZE, offset, length):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        offset += length
