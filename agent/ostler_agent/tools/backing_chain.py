"""Which image an image of another host has below it, by its header. Pure: opens nothing.

A name is followed on the other host only, and only where it is a plain path and the header tells the format: a format
that had to be guessed could be chosen by a guest that writes a header into its raw disk. Layout: QEMU's
docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import PurePosixPath

from ostler_common.errors import FailedPreconditionError
from ostler_common.image_header import parse_qcow2

from ostler_agent.spec import DiskFormat

MAX_NAME_BYTES = 1023  # QEMU's own limit
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_MAX_EXTENSIONS = 64


@dataclass(frozen=True)
class Backing:
    """The image below another one. path: absolute, on the host of the image above it."""

    path: str
    format: DiskFormat


def backing_of(path: str, head: bytes) -> Backing | None:
    """The image below a qcow2 image; None if it has none. head: the first 64 KiB of the image at `path`.

    Raises FailedPreconditionError NOT_AN_IMAGE, BACKING_FILE_REFUSED.
    """
    header = parse_qcow2(head)
    if header is None or not header.complete:
        raise FailedPreconditionError(f"{path} is not a qcow2 image", "NOT_AN_IMAGE", {"path": path})
    if not header.has_backing_file:
        return None
    end = header.backing_offset + header.backing_size
    if not 0 < header.backing_size <= MAX_NAME_BYTES or not header.header_length <= header.backing_offset < end <= len(
        head
    ):
        raise _refused(path, "its name lies outside the header")
    try:
        name = head[header.backing_offset : end].decode()
    except UnicodeDecodeError:
        raise _refused(path, "its name is not text in UTF-8") from None
    parts = PurePosixPath(name).parts  # none for "."
    if not parts or not name.isprintable() or ":" in parts[0] or ".." in parts:
        raise _refused(path, 'its name is no plain path (it is ".", has a protocol, ".." or control characters)')
    format = _format(head[: header.backing_offset], header.header_length)
    if format not in tuple(DiskFormat):
        raise _refused(path, f"its format is {format[:32]!r}, not qcow2 or raw" if format else "its format is not told")
    return Backing(str(PurePosixPath(path).parent / name), DiskFormat(format))


def _format(head: bytes, offset: int) -> str:
    for _ in range(_MAX_EXTENSIONS):
        if offset + _EXTENSION.size > len(head):
            break
        kind, length = _EXTENSION.unpack_from(head, offset)
        offset += _EXTENSION.size
        if kind == 0:
            break
        if kind == _BACKING_FORMAT:
            return head[offset : offset + min(length, 32)].decode("ascii", "replace")
        offset += (length + 7) // 8 * 8
    return ""


def _refused(path: str, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the backing file of {path} cannot be followed: {why}; flatten the image (qemu-img rebase -b '')",
        "BACKING_FILE_REFUSED",
        {"path": path},
    )
