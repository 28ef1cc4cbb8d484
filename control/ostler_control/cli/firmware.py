"""Firmware of VMs, as commands name it."""

from __future__ import annotations

from ostler.types.v1 import vm_pb2

FIRMWARES = ("bios", "uefi", "uefi-secure-boot")


def firmware_of(word: str) -> vm_pb2.Firmware.ValueType:
    """The API's value of one of these words."""
    return vm_pb2.Firmware.Value(f"FIRMWARE_{word.upper().replace('-', '_')}")
