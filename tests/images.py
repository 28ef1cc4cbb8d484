"""Headers of disk images, without the images."""

from __future__ import annotations

import struct


def qcow2(
    *, version: int = 3, backing: int = 0, size: int = 1 << 30, encryption: int = 0, incompatible: int = 0
) -> bytes:
    """encryption: 2 for LUKS; incompatible: feature bits, of which 4 is a data file."""
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", version, backing, 9, 16, size, encryption)
    return head.ljust(72, b"\0") + struct.pack(">Q", incompatible) + bytes(24)


def luks(payload_sectors: int = 8, version: int = 1) -> bytes:
    """A LUKS container of so many sectors, with nothing in it."""
    head = b"LUKS\xba\xbe" + struct.pack(">H", version)
    return head.ljust(104, b"\0") + struct.pack(">I", payload_sectors) + bytes(512 * payload_sectors - 108 + 1024)
