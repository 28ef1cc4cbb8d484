"""A small VNC viewer (RFC 6143): enough to see what is on a screen."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

BYTES_PER_PIXEL = 4
_RAW, _DESKTOP_SIZE = 0, -223


@dataclass(frozen=True)
class Picture:
    """What a screen shows, 4 bytes per pixel."""

    width: int
    height: int
    pixels: bytes

    @property
    def colors(self) -> int:
        return len(set(struct.iter_unpack("4s", self.pixels)))


class Viewer:
    """A viewer before a connection: read and write are its two directions; read returns b"" at the end."""

    def __init__(self, read: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
        self._read, self._write = read, write
        self._received = b""
        assert self._take(12) == b"RFB 003.008\n"
        write(b"RFB 003.008\n")
        assert 1 in self._take(self._take(1)[0]), "no password"
        write(b"\x01")
        assert self._take(4) == bytes(4), "security result"
        write(b"\x01")  # shared
        self.width, self.height = struct.unpack(">HH", self._take(4))
        self._take(16)  # pixel format
        self.name = self._take(struct.unpack(">I", self._take(4))[0]).decode()
        write(struct.pack(">B3x4B3H3B3x", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
        write(struct.pack(">BxH2i", 2, 2, _RAW, _DESKTOP_SIZE))

    def picture(self) -> Picture:
        """The whole screen now."""
        while True:
            size = self.width, self.height
            self._write(struct.pack(">BB4H", 3, 0, 0, 0, *size))
            pixels = self._update()
            if (self.width, self.height) == size:
                return Picture(*size, pixels)

    def _update(self) -> bytes:
        """The pixels of one update, which may tell a new size instead."""
        pixels = bytearray(self.width * self.height * BYTES_PER_PIXEL)
        kind = self._take(1)[0]
        assert kind == 0, f"message of type {kind}"
        for _ in range(struct.unpack(">xH", self._take(3))[0]):
            x, y, width, height, encoding = struct.unpack(">4Hi", self._take(12))
            if encoding == _DESKTOP_SIZE:
                self.width, self.height = width, height
                continue
            assert encoding == _RAW
            for row in range(y, y + height):
                begin = (row * self.width + x) * BYTES_PER_PIXEL
                pixels[begin : begin + width * BYTES_PER_PIXEL] = self._take(width * BYTES_PER_PIXEL)
        return bytes(pixels)

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            data = self._read()
            assert data, "the screen has ended"
            self._received += data
        taken, self._received = self._received[:count], self._received[count:]
        return taken
