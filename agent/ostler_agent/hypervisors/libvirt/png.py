"""Converts a portable pixmap, the output of QEMU's screendump, to PNG."""

from __future__ import annotations

import re
import struct
import zlib

from ostler_common.errors import InternalError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PPM = re.compile(rb"P6\s(?:#[^\n]*\n)*\s*(\d+)\s+(\d+)\s+(\d+)\s")


def to_png(picture: bytes) -> bytes:
    """Converts a pixmap to PNG; returns a PNG unchanged. Raises InternalError PICTURE_FORMAT for other formats."""
    if picture.startswith(PNG_MAGIC):
        return picture
    header = _PPM.match(picture)
    if header is None or int(header[3]) != 255:
        raise InternalError("the hypervisor's screenshot is neither PNG nor a 24-bit pixmap", "PICTURE_FORMAT")
    width, height, pixels = int(header[1]), int(header[2]), picture[header.end() :]
    stride = 3 * width
    if len(pixels) < stride * height:
        raise InternalError("the hypervisor's screenshot is truncated", "PICTURE_FORMAT")
    # Each row begins with its filter type (0: none).
    rows = b"".join(b"\0" + pixels[y * stride : (y + 1) * stride] for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits per sample, RGB
    return PNG_MAGIC + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
