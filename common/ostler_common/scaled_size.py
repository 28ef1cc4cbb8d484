"""Sizes as libvirt writes them: a number and a unit ("scaled integers" in its domain format)."""

from __future__ import annotations

_BYTES = {"b": 1, "byte": 1, "bytes": 1}
for _power, _letter in enumerate("kmgtpe", start=1):
    _BYTES |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}


def parse_scaled_size(number: str, unit: str | None) -> int:
    """The size in bytes; without a unit the number is KiB, as for memory. Raises ValueError."""
    scale = _BYTES.get((unit or "KiB").lower())
    digits = number.strip()
    if scale is None or not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        raise ValueError("must be a whole number with a unit such as KiB, MiB or GiB")
    return int(digits) * scale
