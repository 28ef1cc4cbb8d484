"""Reads the content of a plain qcow2 image: no encryption, compression, backing file, snapshots' data or external data.

The layout: QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from ostler_common import image_header
from ostler_common.errors import FailedPreconditionError

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED, _ZERO = 1 << 62, 1
_MAX_L1_ENTRIES = 1 << 22


class Qcow2Reader:
    """An image in a file. Raises FailedPreconditionError NOT_AN_IMAGE for what it cannot read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0)
        header = image_header.parse_qcow2(file.read(image_header.HEAD_BYTES))
        if header is None or not header.is_known_version or not header.has_valid_cluster_size:
            raise _unusable("it is no qcow2 image")
        if header.is_encrypted or header.has_backing_file or header.incompatible_features:
            raise _unusable("it is encrypted, incomplete, or has features that are not known")
        if header.l1_entries > _MAX_L1_ENTRIES:
            raise _unusable("its tables are too large")
        self.size_bytes = header.virtual_size_bytes
        self._cluster_bytes = 1 << header.cluster_bits
        self._l1 = self._table(header.l1_offset, header.l1_entries)

    def allocated(self) -> Iterator[tuple[int, bytes]]:
        """Offset and content of each cluster that is allocated, in order; the rest of the disk is zeros.

        The last one ends with the disk.
        """
        per_table = self._cluster_bytes // 8
        for index, entry in enumerate(self._l1):
            if not entry & _OFFSET:
                continue
            for number, found in enumerate(self._table(entry & _OFFSET, per_table)):
                offset = (index * per_table + number) * self._cluster_bytes
                if found & _COMPRESSED:
                    raise _unusable("it is compressed")
                if not found & _OFFSET or found & _ZERO or offset >= self.size_bytes:
                    continue
                yield offset, self._read(found & _OFFSET, min(self._cluster_bytes, self.size_bytes - offset))

    def _table(self, offset: int, entries: int) -> tuple[int, ...]:
        return struct.unpack(f">{entries}Q", self._read(offset, entries * 8))

    def _read(self, offset: int, size_bytes: int) -> bytes:
        """A file may end within its last cluster: what is missing is zeros."""
        self._file.seek(offset)
        return self._file.read(size_bytes).ljust(size_bytes, b"\0")


def _unusable(problem: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"the disk image cannot be read: {problem}", "NOT_AN_IMAGE")
