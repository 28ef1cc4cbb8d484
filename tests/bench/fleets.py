"""Clusters as they are run for real: few flavors, most of the memory allocated, load skewed.

The same seed makes the same cluster. Unlike `clusters.py`, equal VMs abound here, and hosts are nearly full.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

from ostler_control.drs import Group, GroupKind, Host, Snapshot, Vm

GIB = 1 << 30
# MHz per allocated CPU, cores x MHz of a host, memory of a host.
_MHZ_PER_VCPU = 500
_HOST = (64 * 2600, 512 * GIB)
_SMALL_HOST = (32 * 2600, 128 * GIB)
# vCPUs and GiB: a handful of sizes, most VMs of the two smallest.
_FLAVORS = ((2, 8), (4, 16), (8, 32), (16, 64))
_WEIGHTS = (45, 35, 15, 5)
_TRIES = 50


@dataclass(frozen=True)
class Fleet:
    """What to make. full: share of the memory that is allocated; skew: how differently hosts are filled, 0: alike;
    sizes: how many flavors; dirtying: whether VMs dirty their memory, each at its own rate; groups: anti-affinity
    groups of `group_size` VMs; others: share of the hosts that hold something else as well."""

    hosts: int
    full: float = 0.85
    skew: float = 0.5
    sizes: int = 4
    dirtying: bool = False
    groups: int = 0
    group_size: int = 5
    small: bool = False
    others: float = 0.0
    seed: int = 1


def make_fleet(shape: Fleet) -> Snapshot:
    """A cluster in which everything fits and no rule is broken."""
    chance = random.Random(shape.seed)
    cpu_mhz, memory_bytes = _SMALL_HOST if shape.small else _HOST
    # Dice are thrown for it only when asked: the same seed makes the same cluster as without.
    other_bytes = [
        memory_bytes // 8 if shape.others and chance.random() < shape.others else 0 for _ in range(shape.hosts)
    ]
    hosts = tuple(
        Host(
            f"h{n:05}",
            f"h{n:05}",
            cpu_mhz,
            memory_bytes,
            other_memory_bytes=other_bytes[n],
            encryption=True,
            pools=frozenset({"shared"}),
        )
        for n in range(shape.hosts)
    )
    goals = _fill(chance, shape, memory_bytes)
    vms: list[Vm] = []
    for host, goal in zip(hosts, goals, strict=True):
        used = host.other_memory_bytes
        while used < goal:
            vcpus, gib = chance.choices(_FLAVORS[: shape.sizes], _WEIGHTS[: shape.sizes])[0]
            if used + gib * GIB > memory_bytes:
                break
            used += gib * GIB
            number = len(vms)
            rate = chance.randrange(0, 200) << 20 if shape.dirtying else 0
            vms.append(
                Vm(
                    f"v{number:06}",
                    f"v{number:06}",
                    host.id,
                    vcpus * _MHZ_PER_VCPU,
                    gib * GIB,
                    pools=frozenset({"shared"}),
                    dirty_rate_bytes_per_s=rate,
                )
            )
    return _grouped(chance, shape, hosts, vms)


def _fill(chance: random.Random, shape: Fleet, memory_bytes: int) -> list[float]:
    """Bytes to allocate on each host: `full` in the mean, `skew` apart."""
    shares = [min(max(shape.full + shape.skew * (chance.random() - 0.5), 0.0), 1.0) for _ in range(shape.hosts)]
    gap = shape.full - sum(shares) / len(shares)
    return [min(max(share + gap, 0.0), 1.0) * memory_bytes for share in shares]


def _grouped(chance: random.Random, shape: Fleet, hosts: tuple[Host, ...], vms: list[Vm]) -> Snapshot:
    groups = tuple(Group(f"g{n}", f"g{n}", GroupKind.ANTI_AFFINITY) for n in range(shape.groups))
    taken: set[int] = set()
    for group in groups:
        on: set[str] = set()
        for _ in range(shape.group_size * _TRIES):
            number = chance.randrange(len(vms))
            if len(on) < shape.group_size and number not in taken and vms[number].host_id not in on:
                on.add(vms[number].host_id)
                taken.add(number)
                vms[number] = dataclasses.replace(vms[number], groups=(group.id,))
    return Snapshot(hosts, tuple(vms), groups)


@dataclass(frozen=True)
class Broken:
    """A small cluster whose rules are broken and can be repaired. full: share of the memory that is allocated; apart,
    together: how many groups of each kind; shuffled: share of the VMs that were moved about since the rules held."""

    hosts: int
    full: float = 0.75
    apart: int = 4
    together: int = 2
    size: int = 3
    shuffled: float = 0.5
    seed: int = 1


def make_broken(shape: Broken) -> Snapshot:
    """First a cluster that keeps its rules, then VMs are moved about: so it can be repaired, whatever that takes."""
    chance = random.Random(shape.seed)
    cpu_mhz, memory_bytes = _SMALL_HOST
    hosts = tuple(Host(f"h{n}", f"h{n}", cpu_mhz, memory_bytes) for n in range(shape.hosts))
    free = dict.fromkeys((host.id for host in hosts), memory_bytes)
    kinds = [GroupKind.ANTI_AFFINITY] * shape.apart + [GroupKind.AFFINITY] * shape.together
    groups = tuple(Group(f"g{n}", f"g{n}", kind) for n, kind in enumerate(kinds))
    vms: list[Vm] = []

    def add(host: str, gib: int, *group: str) -> None:
        while gib * GIB > free[host]:  # a VM that is on a full host could not have been started there
            gib //= 2
        if not gib:
            return
        free[host] -= gib * GIB
        vms.append(Vm(f"v{len(vms):03}", f"v{len(vms):03}", host, gib * 60, gib * GIB, groups=group))

    for group in groups:
        names = [host.id for host in hosts]
        if group.kind is GroupKind.ANTI_AFFINITY:
            for host in chance.sample(names, min(shape.size, len(names))):
                add(host, chance.choice((8, 16, 32)), group.id)
        else:
            host = max(names, key=lambda name: free[name])
            for _ in range(shape.size):
                add(host, chance.choice((8, 16)), group.id)
    while sum(free.values()) > (1 - shape.full) * memory_bytes * len(hosts):
        gib = chance.choice((4, 8, 16, 32))
        roomy = [name for name, bytes_ in free.items() if bytes_ >= gib * GIB]
        if not roomy:
            break
        add(chance.choice(roomy), gib)
    for number in chance.choices(range(len(vms)), k=round(shape.shuffled * len(vms))):
        vm = vms[number]
        roomy = [name for name, bytes_ in free.items() if bytes_ >= vm.memory_bytes and name != vm.host_id]
        if roomy:
            host = chance.choice(roomy)
            free[vm.host_id] += vm.memory_bytes
            free[host] -= vm.memory_bytes
            vms[number] = dataclasses.replace(vm, host_id=host)
    return Snapshot(hosts, tuple(vms), groups)
