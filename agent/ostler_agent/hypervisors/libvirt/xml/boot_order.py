"""The order in which a VM tries its disks and CD-ROM drives when it boots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ostler_agent.spec import MAX_CDROMS, VmSpec


@dataclass(frozen=True)
class BootOrder:
    """Positions from 1 on. disks: by slot, of those that the VM boots from; drives: of all CD-ROM drives."""

    disks: Mapping[int, int]
    drives: Mapping[int, int]


def of(spec: VmSpec) -> BootOrder:
    """Drives that are to be tried first, then disks, then the other drives: an empty disk lets an installer boot, and
    what it has installed boots afterwards although its ISO image is still in the drive."""
    first = [cdrom.drive for cdrom in spec.cdroms if cdrom.boot_first]
    slots = [disk.slot for disk in spec.disks if disk.boot]
    last = [drive for drive in range(MAX_CDROMS) if drive not in first]
    return BootOrder(
        disks={slot: position for position, slot in enumerate(slots, 1 + len(first))},
        drives={
            **{drive: position for position, drive in enumerate(first, 1)},
            **{drive: position for position, drive in enumerate(last, 1 + len(first) + len(slots))},
        },
    )
