"""Disk images that callers or hosts send in chunks: counted, hashed, checked, and durably on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import InvalidArgumentError, bad_field
from ostler_common.image_header import HEAD_BYTES, check_image, check_iso

from ostler_control.templates.admission import record_written

MAX_CHUNK_BYTES = 1 << 20
_MAX_FILE_BYTES = 16 << 40


@dataclass(frozen=True)
class Announced:
    """What the sender announces. format: qcow2 | raw | iso; sha256: of the file, hex, "" when not known beforehand."""

    format: str
    file_size_bytes: int
    sha256: str = ""
    encrypted: bool = False


@dataclass(frozen=True)
class Received:
    """What was received. virtual_size_bytes: of the disk in the file."""

    virtual_size_bytes: int
    file_size_bytes: int
    sha256: str


def check_size(announced: Announced) -> None:
    """Raises InvalidArgumentError INVALID_SIZE."""
    if not 0 < announced.file_size_bytes <= _MAX_FILE_BYTES:
        raise bad_field("header.file_size_bytes", f"must be 1 to {_MAX_FILE_BYTES}", "INVALID_SIZE")


def receive(path: Path, announced: Announced, chunks: Iterator[bytes]) -> Received:
    """Writes a new file, which its caller removes when this raises.

    Raises InvalidArgumentError (CHUNK_TOO_LARGE, SIZE_MISMATCH, DIGEST_MISMATCH, and what `check_image` refuses).
    """
    check_size(announced)
    head, digest = _write(path, announced, chunks)
    if announced.sha256 and announced.sha256.lower() != digest:
        raise InvalidArgumentError(
            f"the file's SHA-256 is {digest}, not the announced one; it was damaged during the transfer: send it again",
            "DIGEST_MISMATCH",
        )
    return Received(_check_head(head, announced), announced.file_size_bytes, digest)


def publish(part: Path, path: Path) -> None:
    """Renames a file, durably."""
    part.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, announced: Announced, chunks: Iterator[bytes]) -> tuple[bytes, str]:
    """Returns the file's head and its digest."""
    digest, head, size = hashlib.sha256(), b"", 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if len(chunk) > MAX_CHUNK_BYTES:
                raise bad_field("data", f"must be at most {MAX_CHUNK_BYTES} bytes per message", "CHUNK_TOO_LARGE")
            if size > announced.file_size_bytes:
                break
            if len(head) < HEAD_BYTES:
                head += chunk[: HEAD_BYTES - len(head)]
                if len(head) == HEAD_BYTES:
                    _check_head(head, announced)  # refuse a wrong file before gigabytes of it are sent
            digest.update(chunk)
            file.write(chunk)
            record_written(path, len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if size != announced.file_size_bytes:
        more = "more" if size > announced.file_size_bytes else f"only {size}"
        raise InvalidArgumentError(
            f"{announced.file_size_bytes} bytes were announced, but {more} were received: the transfer was cut, "
            "or the file changed; send it again",
            "SIZE_MISMATCH",
        )
    return head, digest.hexdigest()


def _check_head(head: bytes, announced: Announced) -> int:
    if announced.format == "iso":
        check_iso(head, announced.file_size_bytes)
        return announced.file_size_bytes
    return check_image(head, announced.file_size_bytes, announced.format, announced.encrypted).virtual_size_bytes
