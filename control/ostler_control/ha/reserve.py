"""Whether the protected VMs of a cluster fit on the other hosts after N of its hosts have failed. Pure.

Placement keeps a sum free (`scheduling.reserve`); this is the exact question behind it: for the worst N hosts, every
protected VM of theirs is placed, the largest first, on the host with the most free memory. A VM that finds no host
fails the reserve, even where the free sum would be large enough for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

# More combinations than this are not tried: then only the N hosts with the most protected memory fail together.
_MAX_COMBINATIONS = 200


@dataclass(frozen=True)
class Load:
    """A VM's size."""

    cpus: int
    memory_bytes: int


@dataclass(frozen=True)
class Room:
    """A host in service. free_*: may be below 0; protected: its VMs that restart by themselves."""

    host_id: str
    name: str
    free_cpus: int
    free_memory_bytes: int
    protected: tuple[Load, ...] = ()


@dataclass(frozen=True)
class Shortfall:
    """The hosts whose failure the others cannot take, and how many VMs would find no place."""

    hosts: tuple[str, ...]
    vms: int


def shortfall(rooms: Sequence[Room], failures: int) -> Shortfall | None:
    """The worst case of this many failures that the cluster cannot take; None when it can take any."""
    if failures <= 0:
        return None
    ordered = sorted(rooms, key=lambda room: (-sum(vm.memory_bytes for vm in room.protected), room.host_id))
    failures = min(failures, len(ordered))
    worst: Shortfall | None = None
    for count, failed in enumerate(combinations(ordered, failures)):
        if count == _MAX_COMBINATIONS:
            break
        missing = _without_place(failed, [room for room in rooms if room not in failed])
        if missing and (worst is None or missing > worst.vms):
            worst = Shortfall(tuple(room.name for room in failed), missing)
    return worst


def _without_place(failed: Sequence[Room], others: Sequence[Room]) -> int:
    free = [[room.free_memory_bytes, room.free_cpus] for room in others]
    missing = 0
    vms = [vm for room in failed for vm in room.protected]
    for vm in sorted(vms, key=lambda vm: (-vm.memory_bytes, -vm.cpus)):
        fitting = [room for room in free if room[0] >= vm.memory_bytes and room[1] >= vm.cpus]
        if not fitting:
            missing += 1
            continue
        chosen = max(fitting)
        chosen[0] -= vm.memory_bytes
        chosen[1] -= vm.cpus
    return missing
