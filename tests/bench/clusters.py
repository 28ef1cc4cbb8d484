"""Clusters made by chance, but the same ones for the same seed: what the planner is measured on."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ostler_control.drs import Group, GroupKind, Host, Snapshot, Vm

GIB = 1 << 30
# Cores x MHz and memory of three generations of hosts, and the sizes that clouds sell.
_HOSTS = ((32 * 2400, 256 * GIB), (64 * 2600, 512 * GIB), (96 * 2400, 768 * GIB))
_OFFERINGS = ((1, 2), (2, 4), (2, 8), (4, 8), (4, 16), (8, 16), (8, 32), (16, 64))
_TRIES = 3  # hosts tried by popularity; then any that has room
_WEIGHTS = (20, 25, 15, 15, 10, 8, 5, 2)


@dataclass(frozen=True)
class Shape:
    """What to make. skew: how unevenly hosts are filled, 0: evenly; models: generations of hosts;
    encrypted: share of VMs that have an encrypted disk."""

    hosts: int
    vms: int
    groups: int = 0
    group_size: int = 5
    skew: float = 2.0
    models: int = 3
    encrypted: float = 0.2
    seed: int = 1


def make(shape: Shape) -> Snapshot:
    """A cluster in which everything fits and no rule is broken."""
    chance = random.Random(shape.seed)
    hosts = []
    for number in range(shape.hosts):
        cpu_mhz, memory_bytes = _HOSTS[chance.randrange(shape.models)]
        hosts.append(
            Host(
                id=f"h{number:05}",
                name=f"h{number:05}",
                cpu_mhz=cpu_mhz,
                memory_bytes=memory_bytes,
                reserved_memory_bytes=4 * GIB,
                encryption=chance.random() < 0.8,
                pools=frozenset({"shared"}),
            )
        )
    # Popularity of hosts: some are many times as likely to be chosen as others.
    popularity = [chance.random() ** shape.skew + 0.02 for _ in hosts]
    free_cpu = [host.cpu_mhz for host in hosts]
    free_memory = [host.memory_bytes - host.reserved_memory_bytes for host in hosts]
    groups = [Group(f"g{number}", f"g{number}", GroupKind.ANTI_AFFINITY) for number in range(shape.groups)]
    in_group = (
        {position: position % shape.groups for position in range(shape.groups * shape.group_size)} if groups else {}
    )
    used: dict[int, set[int]] = {}
    vms = []
    order = iter(chance.choices(range(shape.hosts), popularity, k=shape.vms * (_TRIES + 1)))
    for number in range(shape.vms):
        cores, gib = chance.choices(_OFFERINGS, _WEIGHTS)[0]
        cpu_mhz, memory_bytes, encrypted = cores * 600, gib * GIB, chance.random() < shape.encrypted
        group = in_group.get(number)
        place = next(order)
        for attempt in range(10_000):
            apart = group is None or place not in used.setdefault(group, set())
            roomy = cpu_mhz <= free_cpu[place] and memory_bytes <= free_memory[place]
            if apart and roomy and (hosts[place].encryption or not encrypted):
                break
            place = next(order) if attempt < _TRIES else chance.randrange(shape.hosts)
        else:
            raise ValueError(f"{shape} has more VMs than its hosts hold")
        free_cpu[place] -= cpu_mhz
        free_memory[place] -= memory_bytes
        if group is not None:
            used[group].add(place)
        vms.append(
            Vm(
                id=f"v{number:06}",
                name=f"v{number:06}",
                host_id=hosts[place].id,
                cpu_mhz=cpu_mhz,
                memory_bytes=memory_bytes,
                encrypted=encrypted,
                pools=frozenset({"shared"}),
                groups=(groups[group].id,) if group is not None else (),
                dirty_rate_bytes_per_s=chance.randrange(0, 200) << 20,
            )
        )
    return Snapshot(tuple(hosts), tuple(vms), tuple(groups))
