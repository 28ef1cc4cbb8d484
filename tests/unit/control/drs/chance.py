"""Clusters and settings made by chance, for what holds for every cluster."""

from __future__ import annotations

import random

from hypothesis import strategies as st
from ostler_control.drs import Group, GroupKind, Host, Settings, Snapshot, Vm
from ostler_control.drs.settings import PRESSURES

GIB = 1 << 30


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Small clusters in which everything that a rule asks about varies."""
    chance = random.Random(draw(st.integers(0, 1 << 32)))
    pools, bridges = ["p0", "p1", "p2"], ["b0", "b1"]

    def some(names: list[str], odds: float) -> frozenset[str]:
        return frozenset(name for name in names if chance.random() < odds)

    hosts = [
        Host(
            f"h{i}",
            f"h{i}",
            chance.choice([2000, 4000, 5000]),
            chance.choice([16, 32, 33]) * GIB,
            reserved_memory_bytes=chance.choice([0, GIB]),
            state=chance.choice(["up"] * 8 + ["disconnected"]),
            enabled=chance.random() < 0.95,
            maintenance=chance.random() < 0.05,
            encryption=chance.random() < 0.7,
            uefi=chance.random() < 0.8,
            secure_boot=chance.random() < 0.8,
            hypervisor_type=chance.choice(["kvm", "kvm", "kvm", "qemu"]),
            cpu_models=some(["m0", "m1"], 0.8),
            bridges=some(bridges, 0.9),
            pools=some(pools, 0.8),
            storage_free_bytes=chance.choice([0, 20 * GIB]),
            measured_cpu_mhz=chance.randrange(2000),
            measured_memory_bytes=chance.randrange(16 * GIB),
            cpu_pressure=chance.choice([0.0, 0.4]),
            memory_pressure=chance.choice([0.0, 0.1]),
            io_pressure=chance.random(),
        )
        for i in range(draw(st.integers(1, 6)))
    ]
    kinds = list(GroupKind)
    groups = []
    for i in range(draw(st.integers(0, 4))):
        kind = chance.choice(kinds)
        named = some([host.id for host in hosts], 0.5) if kind.names_hosts else frozenset()
        groups.append(Group(f"g{i}", f"g{i}", kind, chance.random() < 0.6, named))
    vms = []
    for i in range(draw(st.integers(0, 24))):
        host = chance.choice(hosts[: chance.choice([1, len(hosts)])])
        vms.append(
            Vm(
                f"v{i}",
                f"v{i}",
                host.id,
                chance.choice([100, 200, 400, chance.randrange(50, 600)]),
                chance.choice([1, 2, 4]) * GIB,
                encrypted=chance.random() < 0.2,
                uefi=chance.random() < 0.2,
                secure_boot=chance.random() < 0.1,
                hypervisor_type=chance.choice(["", "", "kvm"]),
                cpu_model=chance.choice(["", "", "m0"]),
                bridges=some(bridges, 0.2),
                pools=some(pools, 0.2),
                disk_bytes=chance.choice([0, 10 * GIB]),
                groups=tuple(group.id for group in groups if chance.random() < 0.25),
                skip=chance.random() < 0.1,
                movable=chance.random() < 0.95,
                moved_ago_s=chance.choice([None, None, 2_000.0]),
                recent_moves=chance.choice([0, 1, 2]),
                dirty_rate_bytes_per_s=chance.choice([0, 100 << 20]),
                measured_cpu_mhz=chance.randrange(200),
                measured_memory_bytes=chance.randrange(2 * GIB),
                protected=chance.random() < 0.5,
            )
        )
    return Snapshot(tuple(hosts), tuple(vms), tuple(groups))


@st.composite
def every_settings(draw: st.DrawFn) -> Settings:
    return Settings(
        algorithm=draw(st.sampled_from(["balanced", "condensed"])),
        imbalance=draw(st.sampled_from([0.4, 0.8, 1.0])),
        metric=draw(st.sampled_from(["memory", "cpu", "both", *PRESSURES])),
        source=draw(st.sampled_from(["allocated", "measured"])),
        metric_type=draw(st.sampled_from(["used", "free"])),
        metric_use_ratio=draw(st.booleans()),
        max_migrations=draw(st.sampled_from([1, 3, 50])),
        cost_weight=draw(st.sampled_from([0.0, 0.25, 2.0])),
        min_gain=draw(st.sampled_from([0.0, 0.01])),
        storage_motion=draw(st.booleans()),
        ha_reserve_hosts=draw(st.sampled_from([0, 0, 1, 2])),
        overcommit_memory=draw(st.sampled_from([1.0, 1.5])),
    )
