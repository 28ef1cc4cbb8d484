"""Writes stream-optimized VMDK images, as OVA archives have them: compressed grains, their tables after them.

The layout: VMware, "Virtual Disk Format 5.0", section "Stream-Optimized Compressed Sparse Extents".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

SECTOR_BYTES = 512
GRAIN_BYTES = 64 << 10
_GRAIN_SECTORS = GRAIN_BYTES // SECTOR_BYTES
_GRAINS_PER_TABLE = 512
_OVERHEAD_SECTORS = 128
_DESCRIPTOR_SECTORS = 20
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
_MARKER = struct.Struct("<QII496x")
_GRAIN = struct.Struct("<QI")
_VERSION = 3
_FLAGS = 1 | 1 << 16 | 1 << 17  # line ends can be checked; grains are compressed; markers tell what follows
_DEFLATE = 1
_AT_END = (1 << 64) - 1
_END, _TABLE, _DIRECTORY, _FOOTER = range(4)  # types of markers


def write(out: BinaryIO, name: str, size_bytes: int, allocated: Iterable[tuple[int, bytes]]) -> int:
    """Writes an image at the present place of a file, and returns its size in bytes.

    size_bytes: a multiple of 512; allocated: offsets and content of what is not zeros, in order and without overlap.
    """
    return _Writer(out, size_bytes).write(name, allocated)


class _Writer:
    def __init__(self, out: BinaryIO, size_bytes: int) -> None:
        self._out = out
        self._size_bytes = size_bytes
        self._capacity = -(-size_bytes // SECTOR_BYTES)
        self._sectors = 0  # written

    def write(self, name: str, allocated: Iterable[tuple[int, bytes]]) -> int:
        self._put(self._header(_AT_END))
        descriptor = _descriptor(name, self._capacity).encode()
        self._put(descriptor.ljust(_DESCRIPTOR_SECTORS * SECTOR_BYTES, b"\0"))
        self._put(bytes((_OVERHEAD_SECTORS - self._sectors) * SECTOR_BYTES))
        tables = -(-self._capacity // (_GRAIN_SECTORS * _GRAINS_PER_TABLE))
        directory = [0] * tables
        table, current = [0] * _GRAINS_PER_TABLE, 0
        for grain, data in _grains(allocated):
            if grain // _GRAINS_PER_TABLE != current:
                self._table(table, directory, current)
                table, current = [0] * _GRAINS_PER_TABLE, grain // _GRAINS_PER_TABLE
            table[grain % _GRAINS_PER_TABLE] = self._sectors
            packed = zlib.compress(data, 6)
            self._put(_GRAIN.pack(grain * _GRAIN_SECTORS, len(packed)) + packed)
        self._table(table, directory, current)
        entries = struct.pack(f"<{tables}I", *directory)
        self._marker(-(-len(entries) // SECTOR_BYTES), _DIRECTORY)
        place = self._sectors
        self._put(entries)
        self._marker(1, _FOOTER)
        self._put(self._header(place))
        self._marker(0, _END)
        return self._sectors * SECTOR_BYTES

    def _table(self, table: list[int], directory: list[int], number: int) -> None:
        """A table of grains; one without any is left out."""
        if any(table):
            self._marker(_GRAINS_PER_TABLE * 4 // SECTOR_BYTES, _TABLE)
            directory[number] = self._sectors
            self._put(struct.pack(f"<{_GRAINS_PER_TABLE}I", *table))

    def _header(self, directory: int) -> bytes:
        return _HEADER.pack(
            b"KDMV", _VERSION, _FLAGS, self._capacity, _GRAIN_SECTORS, 1, _DESCRIPTOR_SECTORS, _GRAINS_PER_TABLE,
            0, directory, _OVERHEAD_SECTORS, 0, b"\n \r\n", _DEFLATE,
        )  # fmt: skip

    def _marker(self, sectors: int, kind: int) -> None:
        self._put(_MARKER.pack(sectors, 0, kind))

    def _put(self, data: bytes) -> None:
        """In whole sectors."""
        self._out.write(data)
        self._out.write(bytes(-len(data) % SECTOR_BYTES))
        self._sectors += -(-len(data) // SECTOR_BYTES)


def _grains(allocated: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Number and content of the grains that are not zeros; pieces smaller than a grain are put together."""
    current, parts = -1, bytearray(GRAIN_BYTES)
    for offset, data in allocated:
        at = 0
        while at < len(data):
            grain, inside = divmod(offset + at, GRAIN_BYTES)
            if grain != current:
                if any(parts):
                    yield current, bytes(parts)
                current, parts = grain, bytearray(GRAIN_BYTES)
            count = min(GRAIN_BYTES - inside, len(data) - at)
            parts[inside : inside + count] = data[at : at + count]
            at += count
    if any(parts):
        yield current, bytes(parts)


def _descriptor(name: str, sectors: int) -> str:
    cylinders = min(max(sectors // (255 * 63), 1), 65535)
    return f"""# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "{name}"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.virtualHWVersion = "13"
"""
