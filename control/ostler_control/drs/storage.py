"""Balancing storage pools: the planner of VMs on hosts, given volumes on pools.

A pool's number is the share of its space that is used; a tenth of each pool stays free. What a volume uses is not known
one by one: the space that a pool has in use is divided by its volumes' sizes. A volume moves only to pools of the same
type that every host reaches which reaches its present one, so that its VM can still go wherever it could before.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ostler_control.drs.model import NOTHING, Host, LeftOut, Mode, Move, Plan, Snapshot, Vm
from ostler_control.drs.planner import plan
from ostler_control.drs.settings import Settings

_KEPT_FREE = 10  # one part in so many of each pool
_MIB = 1 << 20


@dataclass(frozen=True)
class Pool:
    """hosts: ids of the hosts in service that reach it, none when it cannot be used now."""

    id: str
    name: str
    type: str
    capacity_bytes: int
    available_bytes: int
    encryption: bool = False
    hosts: frozenset[str] = NOTHING


@dataclass(frozen=True)
class Volume:
    """required_bytes: what must be free before it is created anew; movable: it is ready, and nothing else works on it;
    skip: its VM's owner does not want it moved; moved_ago_s: since its last migration, None: never."""

    id: str
    name: str
    pool_id: str
    size_bytes: int
    required_bytes: int = 0
    encrypted: bool = False
    movable: bool = True
    skip: bool = False
    moved_ago_s: float | None = None


@dataclass(frozen=True)
class PoolShare:
    """How full a pool is, before and after, 1.0 is all of it."""

    pool_id: str
    pool_name: str
    before: float
    after: float


@dataclass(frozen=True)
class StoragePlan:
    """moves: of volumes (`vm_*`) between pools (`source_*`, `destination_*`), in their order."""

    explanation: str
    imbalance_before: float
    imbalance_after: float
    moves: tuple[Move, ...]
    pools: tuple[PoolShare, ...]
    left: tuple[LeftOut, ...]


def storage_plan(pools: Sequence[Pool], volumes: Sequence[Volume], settings: Settings) -> StoragePlan:
    """What to move where. settings: of DRS, of which drs.imbalance says how even pools must be; those about metrics,
    algorithms and overcommit do not count."""
    snapshot = as_snapshot(pools, volumes)
    found = plan(snapshot, storage_settings(settings), Mode.BALANCE)
    after = {vm.id: vm.host_id for vm in snapshot.vms} | {move.vm_id: move.destination_id for move in found.moves}
    sizes = {vm.id: vm.memory_bytes for vm in snapshot.vms}
    change: defaultdict[str, int] = defaultdict(int)
    for vm in snapshot.vms:
        change[vm.host_id] -= sizes[vm.id]
        change[after[vm.id]] += sizes[vm.id]
    shares = tuple(
        PoolShare(pool.id, pool.name, _share(pool, 0), _share(pool, change[pool.id]))
        for pool in sorted(pools, key=lambda pool: pool.name)
    )
    return StoragePlan(
        _in_words_of_storage(found),
        found.imbalance_before,
        found.imbalance_after,
        tuple(dataclasses.replace(one, reason=one.reason.replace("used memory", "used space")) for one in found.moves),
        shares,
        found.left_vms,
    )


def storage_settings(settings: Settings) -> Settings:
    """What the planner is asked with."""
    return dataclasses.replace(
        settings,
        algorithm="balanced",
        metric="memory",
        metric_type="used",
        metric_use_ratio=True,
        source="allocated",
        storage_motion=False,
        ha_reserve_hosts=0,
        overcommit_cpu=1.0,
        overcommit_memory=1.0,
    )


def as_snapshot(pools: Sequence[Pool], volumes: Sequence[Volume]) -> Snapshot:
    """Pools as hosts and volumes as VMs: space is memory, what must be free before a volume is created is CPU in MiB,
    and the hosts that reach a pool are its bridges."""
    by_id = {pool.id: pool for pool in pools}
    sizes: defaultdict[str, int] = defaultdict(int)
    required: defaultdict[str, int] = defaultdict(int)
    for volume in volumes:
        sizes[volume.pool_id] += volume.size_bytes
        required[volume.pool_id] += _mib(volume.required_bytes)
    hosts = []
    for pool in pools:
        used = max(pool.capacity_bytes - pool.available_bytes, 0)
        hosts.append(
            Host(
                pool.id,
                pool.name,
                cpu_mhz=max(pool.available_bytes // _MIB, 1) + required[pool.id],
                memory_bytes=pool.capacity_bytes,
                reserved_memory_bytes=pool.capacity_bytes // _KEPT_FREE,
                other_memory_bytes=max(used - sizes[pool.id], 0),
                state="up" if pool.hosts else "disconnected",
                encryption=pool.encryption,
                hypervisor_type=pool.type,
                bridges=pool.hosts,
            )
        )
    vms = []
    for volume in volumes:
        pool = by_id[volume.pool_id]
        used = max(pool.capacity_bytes - pool.available_bytes, 0)
        in_use = volume.size_bytes * used // sizes[pool.id] if sizes[pool.id] > used else volume.size_bytes
        vms.append(
            Vm(
                volume.id,
                volume.name,
                pool.id,
                cpu_mhz=_mib(volume.required_bytes),
                memory_bytes=in_use,
                encrypted=volume.encrypted,
                hypervisor_type=pool.type,
                bridges=pool.hosts,
                skip=volume.skip,
                movable=volume.movable,
                moved_ago_s=volume.moved_ago_s,
            )
        )
    return Snapshot(tuple(hosts), tuple(vms))


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // _MIB)


def _share(pool: Pool, change_bytes: int) -> float:
    used = pool.capacity_bytes - pool.available_bytes + change_bytes
    return max(used, 0) / pool.capacity_bytes if pool.capacity_bytes else 1.0


def _in_words_of_storage(found: Plan) -> str:
    told = found.explanation.replace("drs.imbalance", "drs.storage.imbalance").replace(", algorithm balanced", "")
    return told.replace("hosts take part", "pools take part").replace("host takes part", "pool takes part")
