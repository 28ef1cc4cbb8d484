"""Reads the headers of volumes on this host, before QEMU opens them (and faster than a child process)."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from ostler_common.image_header import (
    HEAD_BYTES,
    LUKS_MAGIC,
    SECTOR_BYTES,
    check_iterations,
    luks1_payload_bytes,
    luks_offset,
    parse_qcow2,
)

from ostler_agent.spec import DiskFormat

DEVICES = Path("/dev")


@dataclass(frozen=True)
class ImageHeader:
    """What an image's header says. virtual_size_bytes: as the guest sees it; allocated_bytes: used on the pool."""

    format: DiskFormat
    encrypted: bool
    virtual_size_bytes: int
    allocated_bytes: int


def read_header(path: Path, disk_format: DiskFormat, encrypted: bool | None = None) -> ImageHeader:
    """Reads the header of an image that must have that format.

    encrypted: whether a raw image must be a LUKS container; None: judge by its content (a guest may write something
    that looks like one). Raises NotFoundError (VOLUME_NOT_FOUND), FailedPreconditionError (NOT_AN_IMAGE;
    BACKING_FILE_REFUSED if its content is in another file).
    """
    file = open_image(path)
    try:
        status = os.fstat(file)
        head = os.pread(file, 4096, 0)
        length = os.lseek(file, 0, os.SEEK_END)
    finally:
        os.close(file)
    allocated = length if stat.S_ISBLK(status.st_mode) else status.st_blocks * SECTOR_BYTES
    if disk_format is DiskFormat.QCOW2:
        is_encrypted, size = _qcow2(path, head)
    elif encrypted or (encrypted is None and head.startswith(LUKS_MAGIC)):
        is_encrypted, size = True, _luks(path, head, length)
    else:
        is_encrypted, size = False, length
    return ImageHeader(disk_format, is_encrypted, size, allocated)


def check_stretching(path: Path) -> None:
    """Refuses an encrypted image whose passphrase would take a host hours to try.

    Raises NotFoundError (VOLUME_NOT_FOUND), FailedPreconditionError (STRETCHED_TOO_LONG, NOT_AN_IMAGE).
    """
    file = open_image(path)
    try:
        offset = luks_offset(os.pread(file, HEAD_BYTES, 0))
        header = os.pread(file, 4096, offset) if offset is not None and offset < 1 << 62 else b""
    finally:
        os.close(file)
    try:
        check_iterations(header)
    except InvalidArgumentError as error:
        raise FailedPreconditionError(str(error), error.reason, {"file": path.name}) from None


def is_device(path: Path) -> bool:
    """Whether a volume is a block device of an array: these are links below /dev, which only this host writes.

    A device, or a link to one, in the directory of a pool is not a volume: another host may have put it there.
    """
    return path.is_relative_to(DEVICES) and path.is_block_device()


def open_image(path: Path) -> int:
    """Opens a volume's file or device for reading and returns the descriptor.

    Raises NotFoundError (VOLUME_NOT_FOUND), FailedPreconditionError (NOT_AN_IMAGE) if it is neither.
    """
    device = is_device(path)
    try:
        # O_NONBLOCK: a FIFO would wait for its other end. A device is a symbolic link named like its volume.
        follow = 0 if device else os.O_NOFOLLOW
        file = os.open(path, os.O_RDONLY | follow | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"{path.name} is not in its pool", "VOLUME_NOT_FOUND", {"file": path.name}) from None
    except OSError as error:
        _refuse(path, f"cannot be opened as a file: {os.strerror(error.errno or 0)}")
    mode = os.fstat(file).st_mode
    if not (stat.S_ISBLK(mode) if device else stat.S_ISREG(mode)):
        os.close(file)
        _refuse(path, "is not a regular file")
    return file


def _qcow2(path: Path, head: bytes) -> tuple[bool, int]:
    header = parse_qcow2(head)
    if header is None or not header.complete:
        _refuse(path, "is not a qcow2 image")
    if not (header.is_known_version and header.has_valid_cluster_size) or header.virtual_size_bytes % SECTOR_BYTES:
        _refuse(path, "has a damaged qcow2 header")
    if header.is_encrypted and not header.is_luks:
        _refuse(path, "is encrypted, but not with LUKS")
    if header.backing_offset or header.has_external_data_file:
        raise FailedPreconditionError(
            f"{path.name} refers to another file for its content, which is refused (flatten it first)",
            "BACKING_FILE_REFUSED",
            {"file": path.name},
        )
    return header.is_luks, header.virtual_size_bytes


def _luks(path: Path, head: bytes, file_size: int) -> int:
    size = luks1_payload_bytes(head, file_size)
    if size is None:
        _refuse(path, "is not a LUKS1 container")
    if size < 0:
        _refuse(path, "is a LUKS1 container that was cut short")
    return size


def _refuse(path: Path, what: str) -> NoReturn:
    raise FailedPreconditionError(f"{path.name} {what}", "NOT_AN_IMAGE", {"file": path.name})
