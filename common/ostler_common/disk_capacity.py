"""How large the disk in an image file is, read from its header: a guess; the host that has the file checks it.

Layouts: QEMU's docs/interop/qcow2.txt, VMware's "Virtual Disk Format 5.0", VirtualBox's VDI header, and Microsoft's
[MS-VHDX].
"""

from __future__ import annotations

import os
import re
import struct
import uuid
from typing import BinaryIO

from ostler_common.errors import FailedPreconditionError

_SECTOR = 512
_VDI_MAGIC = struct.pack("<I", 0xBEDA107F)
_DESCRIPTOR = b"# Disk DescriptorFile"
_EXTENT = re.compile(rb"^RW ([0-9]{1,12}) ", re.M)
_VHDX_REGIONS = 192 << 10
_VHDX_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_VHDX_DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_MAX_ENTRIES = 2047


def capacity_bytes(file: BinaryIO) -> int:
    """The size that the guest sees, bytes; of a file that is no known image, its own.

    Raises FailedPreconditionError NOT_AN_IMAGE for a header that makes no sense.
    """
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(64 << 10)
    try:
        found = _read(file, head, file_bytes)
    except (struct.error, ValueError):
        found = 0
    if not 0 < found <= 64 << 40:
        raise FailedPreconditionError("the file's header says no size that a disk may have", "NOT_AN_IMAGE")
    return found


def _read(file: BinaryIO, head: bytes, file_bytes: int) -> int:
    if head.startswith(b"QFI\xfb"):
        return int(struct.unpack_from(">Q", head, 24)[0])
    if head.startswith(b"KDMV"):
        return int(struct.unpack_from("<Q", head, 12)[0]) * _SECTOR
    if head.startswith(_DESCRIPTOR):
        return sum(int(sectors) for sectors in _EXTENT.findall(head)) * _SECTOR
    if head[64:68] == _VDI_MAGIC:
        return int(struct.unpack_from("<Q", head, 368)[0])
    if head.startswith(b"vhdxfile"):
        return _vhdx_bytes(file)
    return file_bytes


def _vhdx_bytes(file: BinaryIO) -> int:
    """The item "virtual disk size" of the metadata region, which the region table names."""
    file.seek(_VHDX_REGIONS)
    magic, _, count, _ = struct.unpack("<4sIII", file.read(16))
    regions = file.read(32 * min(count, _MAX_ENTRIES))
    place = next((at for at in range(0, len(regions), 32) if regions[at : at + 16] == _VHDX_METADATA), None)
    if magic != b"regi" or place is None:
        return 0
    (metadata,) = struct.unpack_from("<Q", regions, place + 16)
    file.seek(metadata)
    _, _, count = struct.unpack("<8sHH", file.read(12))
    file.seek(metadata + 32)
    items = file.read(32 * min(count, _MAX_ENTRIES))
    place = next((at for at in range(0, len(items), 32) if items[at : at + 16] == _VHDX_DISK_SIZE), None)
    if place is None:
        return 0
    (offset,) = struct.unpack_from("<I", items, place + 16)
    file.seek(metadata + offset)
    return int(struct.unpack("<Q", file.read(8))[0])
