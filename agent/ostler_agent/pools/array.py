"""How large a volume of an array must be, whose sizes come in steps, for a guest to have what was asked for."""

from __future__ import annotations

from ostler_agent.spec import DiskFormat

GIB = 1 << 30
STEP_BYTES = 8 * GIB
LUKS_HEADER_BYTES = 2 << 20  # cryptsetup's LUKS1 header with a 512-bit key: payload at sector 4096
# qcow2 names each cluster of 64 KiB in 8 bytes, counts it in 2, and rounds; its own LUKS header takes 2 MiB.
_QCOW2_SHARE = 4096
_QCOW2_BYTES = 32 << 20


def needed_bytes(disk_format: DiskFormat, encrypted: bool, size_bytes: int) -> int:
    """Space that a volume takes when all of its size_bytes are written, header and tables included."""
    if disk_format is DiskFormat.QCOW2:
        return size_bytes + size_bytes // _QCOW2_SHARE + _QCOW2_BYTES
    return size_bytes + (LUKS_HEADER_BYTES if encrypted else 0)


def array_bytes(disk_format: DiskFormat, encrypted: bool, size_bytes: int, step_bytes: int = STEP_BYTES) -> int:
    """Size of the array's volume: what is needed, rounded up to the step. 8.5 GiB takes 16, not 8."""
    return -(-needed_bytes(disk_format, encrypted, size_bytes) // step_bytes) * step_bytes
