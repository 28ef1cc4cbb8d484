"""Writes an OVA archive into a file: the descriptor, the manifest, and disks that come one after the other."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from ostler_common import ovf_writer, vmdk_writer
from ostler_common.ovf_writer import Machine
from ostler_common.qcow2_reader import Qcow2Reader

_BLOCK = tarfile.BLOCKSIZE
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class _Entry:
    """A file in the archive, at this offset of its header."""

    name: str
    offset: int
    size_bytes: int
    sha256: str = ""


class OvaFile:
    """An archive that is being written. The descriptor comes first and names the sizes and digests of what follows, so
    that its place is kept, and filled by `finish`."""

    def __init__(self, file: BinaryIO, machine: Machine) -> None:
        """machine: its disks have no sizes yet."""
        self._file = file
        self._machine = machine
        self._disks: list[_Entry] = []
        descriptor = self._reserve(f"{machine.name}.ovf", len(ovf_writer.descriptor(machine)))
        names = [descriptor.name, *(disk.file_name for disk in machine.disks)]
        self._descriptor = descriptor
        self._manifest = self._reserve(f"{machine.name}.mf", len(_manifest(names, [bytes(32).hex()] * len(names))))

    def add_disk(self, image: BinaryIO) -> None:
        """Adds the next disk, from a plain qcow2 image. Raises FailedPreconditionError NOT_AN_IMAGE."""
        name = self._machine.disks[len(self._disks)].file_name
        reader = Qcow2Reader(image)
        offset = self._file.tell()
        self._file.write(bytes(_BLOCK))
        size_bytes = vmdk_writer.write(self._file, name, reader.size_bytes, reader.allocated())
        self._disks.append(_Entry(name, offset, size_bytes, self._digest(offset + _BLOCK, size_bytes)))

    def finish(self) -> None:
        """Fills in what the archive begins with, once all disks are there."""
        self._file.write(bytes(2 * _BLOCK))
        for entry in self._disks:
            self._fill(entry)
        sized = [
            replace(disk, file_bytes=entry.size_bytes)
            for disk, entry in zip(self._machine.disks, self._disks, strict=True)
        ]
        text = ovf_writer.descriptor(replace(self._machine, disks=sized))
        self._fill(self._descriptor, text)
        names = [self._descriptor.name, *(entry.name for entry in self._disks)]
        digests = [hashlib.sha256(text).hexdigest(), *(entry.sha256 for entry in self._disks)]
        self._fill(self._manifest, _manifest(names, digests))

    def _reserve(self, name: str, size_bytes: int) -> _Entry:
        entry = _Entry(name, self._file.tell(), size_bytes)
        self._file.write(bytes(_BLOCK + size_bytes + -size_bytes % _BLOCK))
        return entry

    def _fill(self, entry: _Entry, content: bytes = b"") -> None:
        """Writes a file's header, and its content if that is not there yet."""
        info = tarfile.TarInfo(entry.name)
        info.size, info.mode = entry.size_bytes, 0o644
        self._file.seek(entry.offset)
        self._file.write(info.tobuf(tarfile.GNU_FORMAT))  # beyond 8 GiB, too
        self._file.write(content)

    def _digest(self, offset: int, size_bytes: int) -> str:
        self._file.flush()
        self._file.seek(offset)
        sha256, left = hashlib.sha256(), size_bytes
        while left:
            piece = self._file.read(min(left, _PIECE_BYTES))
            sha256.update(piece)
            left -= len(piece)
        return sha256.hexdigest()


def _manifest(names: Sequence[str], digests: Sequence[str]) -> bytes:
    """Its length depends on the names alone."""
    lines = (f"SHA256({name})= {digest}\n" for name, digest in zip(names, digests, strict=True))
    return "".join(lines).encode()
