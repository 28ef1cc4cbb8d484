"""Disk images that come in pieces, from callers or from hosts: counted, hashed, looked at, and on disk for good."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import InvalidArgumentError, bad_field
from ostler_common.image_header import HEAD_BYTES, check_image

MAX_CHUNK_BYTES = 1 << 20
_LARGEST_FILE_BYTES = 16 << 40


@dataclass(frozen=True)
class Announced:
    """What is said to come. sha256: of the file, hex; "" when it is not known beforehand."""

    format: str
    file_size_bytes: int
    sha256: str = ""
    encrypted: bool = False


@dataclass(frozen=True)
class Received:
    """What came. virtual_size_bytes: of the disk in it."""

    virtual_size_bytes: int
    file_size_bytes: int
    sha256: str


def check_size(announced: Announced) -> None:
    """Raises InvalidArgumentError INVALID_SIZE."""
    if not 0 < announced.file_size_bytes <= _LARGEST_FILE_BYTES:
        raise bad_field("header.file_size_bytes", f"must be 1 to {_LARGEST_FILE_BYTES}", "INVALID_SIZE")


def receive(path: Path, announced: Announced, pieces: Iterator[bytes]) -> Received:
    """Writes a new file, which its caller removes when this raises.

    Raises InvalidArgumentError (PIECE_TOO_LARGE, SIZE_MISMATCH, DIGEST_MISMATCH, and what `check_image` refuses).
    """
    check_size(announced)
    head, digest = _write(path, announced, pieces)
    if announced.sha256 and announced.sha256.lower() != digest:
        raise InvalidArgumentError(
            f"the file's SHA-256 is {digest}, not what was announced; it was damaged on its way (send it again)",
            "DIGEST_MISMATCH",
        )
    return Received(_examine(head, announced), announced.file_size_bytes, digest)


def publish(part: Path, path: Path) -> None:
    """Gives a file its name, for good."""
    part.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, announced: Announced, pieces: Iterator[bytes]) -> tuple[bytes, str]:
    """The file's beginning and its digest."""
    digest, head, size = hashlib.sha256(), b"", 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            size += len(piece)
            if len(piece) > MAX_CHUNK_BYTES:
                raise bad_field("data", f"at most {MAX_CHUNK_BYTES} bytes a message", "PIECE_TOO_LARGE")
            if size > announced.file_size_bytes:
                break
            if len(head) < HEAD_BYTES:
                head += piece[: HEAD_BYTES - len(head)]
                if len(head) == HEAD_BYTES:
                    _examine(head, announced)  # nobody should send gigabytes to hear that the first block was wrong
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if size != announced.file_size_bytes:
        more = "more" if size > announced.file_size_bytes else f"only {size}"
        raise InvalidArgumentError(
            f"{announced.file_size_bytes} bytes were announced, and {more} came; it broke off, or the file changed",
            "SIZE_MISMATCH",
        )
    return head, digest.hexdigest()


def _examine(head: bytes, announced: Announced) -> int:
    return check_image(head, announced.file_size_bytes, announced.format, announced.encrypted).virtual_size_bytes
