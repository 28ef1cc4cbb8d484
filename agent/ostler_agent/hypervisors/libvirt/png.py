"""PNG from a portable pixmap, which is what QEMU's screendump gives."""

from __future__ import annotations

import re
import struct
import zlib

from ostler_common.errors import InternalError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PPM = re.compile(rb"P6\s(?:#[^\n]*\n)*\s*(\d+)\s+(\d+)\s+(\d+)\s")


def to_png(picture: bytes) -> bytes:
    """The picture as PNG; one that is PNG already stays as it is. InternalError PICTURE_FORMAT for anything else."""
    if picture.startswith(PNG_MAGIC):
        return picture
    header = _PPM.match(picture)
    if header is None or int(header[3]) != 255:
        raise InternalError("the hypervisor's picture is neither PNG nor a 24-bit pixmap", "PICTURE_FORMAT")
    width, height, pixels = int(header[1]), int(header[2]), picture[header.end() :]
    stride = 3 * width
    if len(pixels) < stride * height:
        raise InternalError("the hypervisor's picture is cut off", "PICTURE_FORMAT")
    # Each row is preceded by its filter: 0, none.
    rows = b"".join(b"\0" + pixels[y * stride : (y + 1) * stride] for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a sample, RGB
    return PNG_MAGIC + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
