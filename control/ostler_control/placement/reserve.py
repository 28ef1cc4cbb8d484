"""Whether the protected VMs of a cluster fit on the other hosts after N of its hosts have failed. Pure.

Placement keeps a sum free (`scheduling.reserve`); this is the exact question behind it: for the worst N hosts, every
protected VM of theirs is placed, the largest first, on the host with the most free memory. A VM that finds no host
fails the reserve, even where the free sum would be large enough for it. High availability shows the answer, and plans
of DRS do not make it worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import combinations

# More combinations than this are not tried: then only the N hosts with the most protected memory fail together.
_MAX_COMBINATIONS = 200


@dataclass(frozen=True)
class Load:
    """A VM's size. cpus: in any unit, the same as of the hosts."""

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
    roomiest = sorted(rooms, key=lambda room: (-room.free_memory_bytes, -room.free_cpus))
    failures = min(failures, len(ordered))
    worst: Shortfall | None = None
    for count, failed in enumerate(combinations(ordered, failures)):
        if count == _MAX_COMBINATIONS:
            break
        missing = _without_place(failed, roomiest)
        if missing and (worst is None or missing > worst.vms):
            worst = Shortfall(tuple(room.name for room in failed), missing)
    return worst


def _without_place(failed: Sequence[Room], roomiest: Sequence[Room]) -> int:
    """How many protected VMs of these hosts find no place on the others. Hosts are looked at one by one, the one with
    the most free memory first, so that of a large cluster only as many are as there are VMs to place."""
    gone = {room.host_id for room in failed}
    unused = iter(room for room in roomiest if room.host_id not in gone)
    ahead = next(unused, None)
    used: list[tuple[int, int]] = []  # a heap of (-free memory, -free CPUs)
    missing = 0
    vms = [vm for room in failed for vm in room.protected]
    for vm in sorted(vms, key=lambda vm: (-vm.memory_bytes, -vm.cpus)):
        lacks_cpus: list[tuple[int, int]] = []
        while True:
            if ahead is not None and (not used or (-ahead.free_memory_bytes, -ahead.free_cpus) <= used[0]):
                heappush(used, (-ahead.free_memory_bytes, -ahead.free_cpus))
                ahead = next(unused, None)
                continue
            if not used or -used[0][0] < vm.memory_bytes:
                missing += 1
                break
            memory, cpus = heappop(used)
            if -cpus >= vm.cpus:
                heappush(used, (memory + vm.memory_bytes, cpus + vm.cpus))
                break
            lacks_cpus.append((memory, cpus))
        for one in lacks_cpus:
            heappush(used, one)
    return missing
