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
    groups of `group_size` VMs."""

    hosts: int
    full: float = 0.85
    skew: float = 0.5
    sizes: int = 4
    dirtying: bool = False
    groups: int = 0
    group_size: int = 5
    small: bool = False
    seed: int = 1


def make_fleet(shape: Fleet) -> Snapshot:
    """A cluster in which everything fits and no rule is broken."""
    chance = random.Random(shape.seed)
    cpu_mhz, memory_bytes = _SMALL_HOST if shape.small else _HOST
    hosts = tuple(
        Host(f"h{n:05}", f"h{n:05}", cpu_mhz, memory_bytes, encryption=True, pools=frozenset({"shared"}))
        for n in range(shape.hosts)
    )
    goals = _fill(chance, shape, memory_bytes)
    vms: list[Vm] = []
    for host, goal in zip(hosts, goals, strict=True):
        used = 0
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
