"""A cluster as the planner sees it, read in a handful of queries however large it is."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from ostler_common.hypervisors import Function
from peewee import ModelSelect, fn

from ostler_control import settings
from ostler_control.catalog.firmware import SECURE_BOOT, is_uefi
from ostler_control.drs import Group, GroupKind, Host, Settings, Snapshot, Vm
from ostler_control.fleet.smoothing import Smooth
from ostler_control.hosts import cpus
from ostler_control.hypervisors import proved, rules
from ostler_control.models import (
    AffinityGroup,
    AffinityMember,
    Cluster,
    DrsMove,
    DrsPlan,
    HostPower,
    Pool,
    PoolHost,
    Volume,
    now,
    tuples,
)
from ostler_control.models import Host as HostRow
from ostler_control.models import Vm as VmRow
from ostler_control.networks.needs import Needs, needs_of_vms
from ostler_control.scheduling import affinity, protection
from ostler_control.states import MoveState
from ostler_control.vms import tpm

# Any: a VM's row, or the named tuple of `_COLUMNS`, which is made at run time.
_Row = Any

# Capacity is counted in CPUs and the planner counts in MHz: one and the same of either, whatever the CPU's speed.
MHZ_PER_CPU = 1000
_COLUMNS = (
    "id",
    "name",
    "state",
    "power_state",
    "attention",
    "operation_id",
    "host",
    "destination",
    "cpus",
    "memory_bytes",
    "firmware",
    "drs_skip",
    "move_time",
)
_MOVABLE_POWER = ("running", "paused", "")


@dataclass(frozen=True)
class Present:
    """A cluster now. arriving: ids of the snapshot's stand-ins for VMs on their way (see `take`)."""

    snapshot: Snapshot
    settings: Settings
    arriving: frozenset[str] = frozenset()


def take(cluster: Cluster, time: datetime.datetime | None = None) -> Present:
    """What is true of a cluster at this moment. time: for cooldowns and the age of samples; None: the present.

    A VM that is migrating holds its place on two hosts, and its affinity groups see it on both: at its destination
    stands a VM of the same size and groups that nothing moves.
    """
    time = time or now()
    hosts = list(HostRow.select().where((HostRow.cluster == cluster.id) & ~HostRow.removed))
    # Subqueries rather than lists of ids: databases limit how many values a statement may carry.
    within = HostRow.select(HostRow.id).where((HostRow.cluster == cluster.id) & ~HostRow.removed)
    there = VmRow.host.in_(within) | VmRow.destination.in_(within)
    vms_there = VmRow.select(VmRow.id).where(there)
    # Plain tuples: of tens of thousands of rows, making models out of them would take most of the time.
    rows: list[_Row] = list(VmRow.select(*(getattr(VmRow, name) for name in _COLUMNS)).where(there).namedtuples())
    loads = {host.id: Smooth.from_json(host.smooth_load) for host in hosts}
    now_s = time.replace(tzinfo=datetime.UTC).timestamp()
    measured = {host_id: load for host_id, load in loads.items() if load.usable(now_s)}
    samples = {vm_id: sample for load in measured.values() for vm_id, sample in load.vms.items()}
    reach, space = _reach(within)
    moves = _recent_moves(cluster, time)
    disks, networks, groups = _disks(vms_there), needs_of_vms(vms_there), _groups(vms_there)
    has_proved, with_tpm = proved.of_hosts(within), tpm.of_vms(vms_there)
    wanted = settings.drs.planner_settings(cluster)
    protected = _protected(vms_there) if wanted.ha_reserve_hosts else set()
    reserved = settings.agents.HOST_RESERVED_MEMORY.get(settings.At(cluster_id=cluster.id))
    told = {host.id: json.loads(host.capabilities or "{}") for host in hosts}
    asleep = {host_id for (host_id,) in tuples(HostPower.select(HostPower.host), tuple[str])}
    cpu_names = cpus.names(within, vms_there)
    kinds = {
        host.id: _Kind(
            host.id, host.hypervisor_type, cpu_names.of_hosts.get(host.id) or told[host.id].get("cpuModel", "")
        )
        for host in hosts
    }
    vms: list[Vm] = []
    arriving: set[str] = set()
    for row in rows:
        make = functools.partial(
            _vm,
            row,
            cpu_names.of_vms.get(row.id, ""),
            moves.get(row.id, 0),
            disks.get(row.id, []),
            networks.get(row.id, Needs()),
            groups.get(row.id, []),
            samples.get(row.id),
            row.id in protected,
            row.id in with_tpm,
            time,
        )
        if row.host in kinds:
            vms.append(make(kinds[row.host]))
        if row.destination in kinds and row.destination != row.host:
            arrival = make(kinds[row.destination])
            stand_in = f"{row.id}@{row.destination}"
            arriving.add(stand_in)
            vms.append(dataclasses.replace(arrival, id=stand_in, name=f"{row.name} (arriving)", movable=False))
    return Present(
        Snapshot(
            tuple(
                _host(
                    host,
                    cluster,
                    cpu_names.given_by(host.id) or frozenset(filter(None, [told[host.id].get("cpuModel", "")])),
                    reach.get(host.id, frozenset()),
                    space,
                    reserved,
                    measured,
                    has_proved.get(host.id, frozenset()),
                    host.id in asleep,
                )
                for host in hosts
            ),
            tuple(vms),
            _with_hosts(_distinct(groups.values())),
        ),
        wanted,
        frozenset(arriving),
    )


def _host(
    row: HostRow,
    cluster: Cluster,
    cpu_models: frozenset[str],
    pools: frozenset[str],
    space: Mapping[str, int],
    reserved_memory_bytes: int,
    measured: Mapping[str, Smooth],
    has_proved: Set[str],
    asleep: bool,
) -> Host:
    load = measured.get(row.id)
    return Host(
        id=row.id,
        name=row.name,
        cpu_mhz=row.cpus * MHZ_PER_CPU,
        memory_bytes=row.memory_bytes,
        reserved_memory_bytes=min(reserved_memory_bytes, row.memory_bytes),
        state=row.state,
        enabled=bool(row.enabled and cluster.enabled),
        maintenance=bool(row.maintenance),
        encryption=bool(row.volume_encryption),
        uefi=bool(row.uefi),
        hypervisor_type=row.hypervisor_type,
        cpu_models=cpu_models,
        bridges=frozenset(filter(None, row.bridges.split(","))),
        nic_filter=Function.NIC_FILTER in has_proved,
        tpm=Function.TPM in has_proved,
        secure_boot=Function.SECURE_BOOT in has_proved,
        pools=pools,
        storage_free_bytes=max((space[pool] for pool in pools), default=0),
        measured_cpu_mhz=round(load.cpu_used * MHZ_PER_CPU) if load else None,
        measured_memory_bytes=round(load.memory_bytes) if load else None,
        cpu_pressure=load.cpu_pressure if load else None,
        memory_pressure=load.memory_pressure if load else None,
        io_pressure=load.io_pressure if load else None,
        asleep=asleep,
        live_migration=rules.supports(Function.LIVE_MIGRATION, row),
    )


@dataclass(frozen=True)
class _Kind:
    """What a guest on a host sees."""

    host_id: str
    hypervisor_type: str
    cpu_model: str


def _vm(
    row: _Row,
    own_cpu: str,
    recent_moves: int,
    disks: Iterable[tuple[str, int, bool]],
    network: Needs,
    groups: Iterable[AffinityGroup],
    sample: tuple[float, float, float] | None,
    protected: bool,
    with_tpm: bool,
    time: datetime.datetime,
    on: _Kind,
) -> Vm:
    """The VM on a host. own_cpu: the CPU that it has, "" for its host's."""
    disks = list(disks)
    return Vm(
        id=row.id,
        name=row.name,
        host_id=on.host_id,
        hypervisor_type=on.hypervisor_type,
        cpu_model=own_cpu or on.cpu_model,
        cpu_mhz=row.cpus * MHZ_PER_CPU,
        memory_bytes=row.memory_bytes,
        encrypted=any(encrypted for _, _, encrypted in disks),
        uefi=is_uefi(row.firmware),
        bridges=network.bridges,
        nic_filter=network.nic_filter,
        tpm=with_tpm,
        secure_boot=row.firmware == SECURE_BOOT,
        pools=frozenset(pool for pool, _, _ in disks),
        disk_bytes=sum(size for _, size, _ in disks),
        groups=tuple(group.id for group in groups),
        skip=bool(row.drs_skip),
        movable=movable(row),
        recent_moves=recent_moves,
        moved_ago_s=(time - row.move_time).total_seconds() if row.move_time else None,
        measured_cpu_mhz=round(sample[0] * MHZ_PER_CPU) if sample else None,
        measured_memory_bytes=round(sample[1]) if sample else None,
        dirty_rate_bytes_per_s=round(sample[2]) if sample else 0,
        protected=protected,
    )


def _recent_moves(cluster: Cluster, time: datetime.datetime) -> dict[str, int]:
    """How often DRS moved each VM of the cluster within a day."""
    query = DrsMove.select(DrsMove.vm_id, fn.COUNT(DrsMove.id)).join(DrsPlan)
    done = (DrsPlan.cluster == cluster.id) & (DrsMove.state == MoveState.DONE)
    query = query.where(done & (DrsMove.end_time > time - datetime.timedelta(days=1))).group_by(DrsMove.vm_id)
    return dict(tuples(query, tuple[str, int]))


def movable(row: _Row) -> bool:
    """Whether a VM runs and nothing works on it, so that it can migrate."""
    return bool(
        row.state == "running"
        and row.power_state in _MOVABLE_POWER
        and not row.operation_id
        and not row.attention.startswith("RUNS ")
    )


def _reach(host_ids: ModelSelect[HostRow]) -> tuple[dict[str, frozenset[str]], dict[str, int]]:
    """For each host the pools that it reaches, and for each pool its free space."""
    found: dict[str, set[str]] = defaultdict(set)
    space: dict[str, int] = {}
    query = PoolHost.select(PoolHost.host, PoolHost.pool, Pool.available_bytes).join(Pool)
    query = query.where(PoolHost.host.in_(host_ids) & PoolHost.reachable)
    for host_id, pool_id, available in tuples(query, tuple[str, str, int]):
        found[host_id].add(pool_id)
        space[pool_id] = available
    return {host_id: frozenset(pools) for host_id, pools in found.items()}, space


def _disks(vm_ids: ModelSelect[VmRow]) -> dict[str, list[tuple[str, int, bool]]]:
    """For each VM its disks: pool, size, whether encrypted."""
    found: dict[str, list[tuple[str, int, bool]]] = defaultdict(list)
    query = Volume.select(Volume.vm_id, Volume.pool, Volume.size_bytes, Volume.passphrase)
    query = query.where(Volume.vm_id.in_(vm_ids))
    for vm_id, pool, size_bytes, passphrase in tuples(query, tuple[str, str, int, str | None]):
        found[vm_id].append((pool, size_bytes, passphrase is not None))
    return found


def _protected(vm_ids: ModelSelect[VmRow]) -> set[str]:
    """Those of these VMs that restart by themselves when their host fails."""
    query = protection.with_priority(VmRow.select(VmRow.id)).where(VmRow.id.in_(vm_ids), protection.is_protected())
    return {vm_id for (vm_id,) in tuples(query, tuple[str])}


def _groups(vm_ids: ModelSelect[VmRow]) -> dict[str, list[AffinityGroup]]:
    found: dict[str, list[AffinityGroup]] = defaultdict(list)
    query = AffinityMember.select(AffinityMember, AffinityGroup).join(AffinityGroup)
    for row in query.where(AffinityMember.vm.in_(vm_ids)).order_by(AffinityGroup.name, AffinityGroup.id):
        found[row.vm_id].append(row.group)
    return found


def _distinct(found: Iterable[Iterable[AffinityGroup]]) -> list[AffinityGroup]:
    by_id = {group.id: group for groups in found for group in groups}
    return [by_id[group_id] for group_id in sorted(by_id)]


def _with_hosts(rows: Sequence[AffinityGroup]) -> tuple[Group, ...]:
    hosts = affinity.hosts_of([row.id for row in rows])
    return tuple(
        Group(
            row.id,
            row.name,
            GroupKind(row.kind.replace("_", "-")),
            bool(row.strict),
            frozenset(host.id for host in hosts.get(row.id, ())),
        )
        for row in rows
    )
