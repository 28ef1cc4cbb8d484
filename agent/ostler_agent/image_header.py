"""Reads the header of a disk image without QEMU.

QEMU opens what a header refers to, so a header is looked at here first; and it is faster than a child process.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ostler_common.errors import FailedPreconditionError, NotFoundError

from ostler_agent.spec import DiskFormat

SECTOR = 512
_QCOW2 = struct.Struct(">4sI Q I I Q I")  # magic, version, backing offset and length, cluster bits, size, encryption
_QCOW2_INCOMPATIBLE = slice(72, 80)
_EXTERNAL_DATA_FILE = 1 << 2
_QCOW2_LUKS = 2
_LUKS_MAGIC = b"LUKS\xba\xbe"


@dataclass(frozen=True)
class ImageHeader:
    """What an image says of itself. virtual_size_bytes: as a guest sees it; allocated_bytes: taken on the pool."""

    format: DiskFormat
    encrypted: bool
    virtual_size_bytes: int
    allocated_bytes: int


def read_header(path: Path, disk_format: DiskFormat, encrypted: bool | None = None) -> ImageHeader:
    """Reads an image that is to be of that format.

    encrypted: whether a raw image is to be a LUKS container; None: as it looks (a guest may have written what looks
    like one). Raises NotFoundError (VOLUME_NOT_FOUND), FailedPreconditionError (NOT_AN_IMAGE; BACKING_FILE_REFUSED
    when its content is in another file).
    """
    file = open_image(path)
    try:
        status = os.fstat(file)
        head = os.pread(file, 4096, 0)
        length = os.lseek(file, 0, os.SEEK_END)
    finally:
        os.close(file)
    allocated = length if stat.S_ISBLK(status.st_mode) else status.st_blocks * SECTOR
    if disk_format is DiskFormat.QCOW2:
        is_encrypted, size = _qcow2(path, head)
    elif encrypted or (encrypted is None and head.startswith(_LUKS_MAGIC)):
        is_encrypted, size = True, _luks(path, head, length)
    else:
        is_encrypted, size = False, length
    return ImageHeader(disk_format, is_encrypted, size, allocated)


def open_image(path: Path) -> int:
    """A descriptor to read a volume's file or device by, at its beginning.

    Raises NotFoundError (VOLUME_NOT_FOUND), FailedPreconditionError (NOT_AN_IMAGE) for what is neither.
    """
    is_device = path.is_block_device()
    try:
        # O_NONBLOCK: a FIFO would wait for its other end. A device is a symbolic link named like its volume.
        follow = 0 if is_device else os.O_NOFOLLOW
        file = os.open(path, os.O_RDONLY | follow | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"{path.name} is not in its pool", "VOLUME_NOT_FOUND", {"file": path.name}) from None
    except OSError as error:
        _refuse(path, f"cannot be opened as a file: {os.strerror(error.errno or 0)}")
    mode = os.fstat(file).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        os.close(file)
        _refuse(path, "is not a regular file")
    return file


def _qcow2(path: Path, head: bytes) -> tuple[bool, int]:
    if len(head) < 104 or not head.startswith(b"QFI\xfb"):
        _refuse(path, "is not a qcow2 image")
    _, version, backing, _, cluster_bits, size, encryption = _QCOW2.unpack_from(head)
    if version not in (2, 3) or not 9 <= cluster_bits <= 21 or size % SECTOR:
        _refuse(path, "has a damaged qcow2 header")
    if encryption not in (0, _QCOW2_LUKS):
        _refuse(path, "is encrypted in a way that is not LUKS")
    incompatible = int.from_bytes(head[_QCOW2_INCOMPATIBLE], "big") if version == 3 else 0
    if backing or incompatible & _EXTERNAL_DATA_FILE:
        raise FailedPreconditionError(
            f"{path.name} says that its content is in another file, which is refused (flatten it first)",
            "BACKING_FILE_REFUSED",
            {"file": path.name},
        )
    return encryption == _QCOW2_LUKS, size


def _luks(path: Path, head: bytes, file_size: int) -> int:
    if len(head) < 592 or not head.startswith(_LUKS_MAGIC) or head[6:8] != b"\0\x01":
        _refuse(path, "is not a LUKS1 container")
    size = file_size - SECTOR * int.from_bytes(head[104:108], "big")
    if size < 0:
        _refuse(path, "is a LUKS1 container that was cut short")
    return size


def _refuse(path: Path, what: str) -> NoReturn:
    raise FailedPreconditionError(f"{path.name} {what}", "NOT_AN_IMAGE", {"file": path.name})
