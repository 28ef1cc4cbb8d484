"""The names of disks on a VM's bus."""

from __future__ import annotations


def disk_name(prefix: str, number: int) -> str:
    """The name of the n-th disk, from 0: vda, ... vdz, vdaa for the prefix vd."""
    letters = ""
    number += 1
    while number > 0:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return prefix + letters
