"""Pixmaps to PNG."""

from __future__ import annotations

import struct
import zlib

import pytest
from ostler_agent.hypervisors.libvirt.png import PNG_MAGIC, to_png
from ostler_common.errors import InternalError

PIXELS = bytes(range(18))  # 3 wide, 2 high


def chunks(png: bytes) -> dict[bytes, bytes]:
    assert png.startswith(PNG_MAGIC)
    found, at = {}, len(PNG_MAGIC)
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length)[0] == zlib.crc32(kind + data)
        found[kind] = data
        at += 12 + length
    return found


@pytest.mark.parametrize("header", [b"P6\n3 2\n255\n", b"P6\n# QEMU\n3 2\n255\n", b"P6 3 2 255 "])
def test_pixels_survive(header: bytes) -> None:
    found = chunks(to_png(header + PIXELS))
    assert struct.unpack(">IIBBBBB", found[b"IHDR"]) == (3, 2, 8, 2, 0, 0, 0)
    assert zlib.decompress(found[b"IDAT"]) == b"\0" + PIXELS[:9] + b"\0" + PIXELS[9:]
    assert found[b"IEND"] == b""


def test_png_stays() -> None:
    png = to_png(b"P6\n3 2\n255\n" + PIXELS)
    assert to_png(png) is png


@pytest.mark.parametrize(
    "bad", [b"", b"P5\n3 2\n255\n" + PIXELS, b"P6\n3 2\n65535\n" + PIXELS, b"P6\n3 3\n255\n" + PIXELS]
)
def test_anything_else_is_refused(bad: bytes) -> None:
    with pytest.raises(InternalError) as error:
        to_png(bad)
    assert error.value.reason == "PICTURE_FORMAT"
