"""Firmware of VMs, as the database has it."""

from __future__ import annotations

from ostler.types.v1 import vm_pb2

SECURE_BOOT = "uefi_secure_boot"
FIRMWARES = {
    "bios": vm_pb2.FIRMWARE_BIOS,
    "uefi": vm_pb2.FIRMWARE_UEFI,
    SECURE_BOOT: vm_pb2.FIRMWARE_UEFI_SECURE_BOOT,
}
# With secure boot and without.
UEFI = ("uefi", SECURE_BOOT)


def is_uefi(firmware: str) -> bool:
    """Whether it is UEFI, with secure boot or without."""
    return firmware in UEFI
