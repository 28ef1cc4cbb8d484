"""Sizes of volumes on an array that allocates in steps."""

from __future__ import annotations

from ostler_agent.spec import DiskFormat

GIB = 1 << 30
STEP_BYTES = 8 * GIB
LUKS_HEADER_BYTES = 2 << 20  # cryptsetup's LUKS1 header with a 512-bit key: payload at sector 4096
# qcow2 takes 8 bytes of tables and 2 of refcounts per 64 KiB cluster, rounded up; its LUKS header takes 2 MiB.
_QCOW2_SHARE = 4096
_QCOW2_BYTES = 32 << 20


def needed_bytes(disk_format: DiskFormat, encrypted: bool, size_bytes: int) -> int:
    """Space that a fully written volume takes, including headers and tables."""
    if disk_format is DiskFormat.QCOW2:
        return size_bytes + size_bytes // _QCOW2_SHARE + _QCOW2_BYTES
    return size_bytes + (LUKS_HEADER_BYTES if encrypted else 0)


def array_bytes(disk_format: DiskFormat, encrypted: bool, size_bytes: int, step_bytes: int = STEP_BYTES) -> int:
    """Size of the array's volume: the needed space rounded up to the step (8.5 GiB takes 16 GiB)."""
    return -(-needed_bytes(disk_format, encrypted, size_bytes) // step_bytes) * step_bytes
