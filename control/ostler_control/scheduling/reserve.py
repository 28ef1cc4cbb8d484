"""The capacity that placement keeps free in a cluster, so that VMs of failed hosts find a place.

The reserve is a sum: as much as the N largest hosts of the cluster have. A host that is down already, and not to
save power, counts as one of the N. Moves inside a cluster do not change the sum.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from peewee import ModelSelect

from ostler_control import database, settings
from ostler_control.models import Cluster, Host, HostPower, HostState, tuples
from ostler_control.placement import Demand
from ostler_control.scheduling import capacity


class Headroom(NamedTuple):
    """How much may still be placed in a cluster before its reserve is touched; below 0 when it is touched already."""

    cpus: int
    memory_bytes: int


def headroom(demand: Demand) -> dict[str, Headroom]:
    """By cluster id, for those that have a reserve which binds this demand. Within the caller's transaction; until it
    ends nobody else places a VM in these clusters."""
    if not (demand.cpus or demand.memory_bytes):
        return {}
    wanted = settings.ha.RESERVE_HOSTS.by_cluster()
    if not any(wanted.values()):
        return {}
    clusters = {row_id for (row_id,) in tuples(_clusters(demand), tuple[str])}
    reserves = {row_id: wanted.get(row_id, wanted[""]) for row_id in clusters}
    return _headroom({row_id: hosts for row_id, hosts in reserves.items() if hosts})


def _clusters(demand: Demand) -> ModelSelect[Cluster]:
    """Ids of the clusters where it may be placed. They depend on the demand alone: a transaction that asks again locks
    the same ones, so that two transactions never wait for each other."""
    query = Cluster.select(Cluster.id).where(Cluster.id != demand.reserve_of)
    if demand.zone_id:
        query = query.where(Cluster.zone == demand.zone_id)
    if demand.cluster_id:
        query = query.where(Cluster.id == demand.cluster_id)
    if demand.host_id:
        query = query.where(Cluster.id.in_(Host.select(Host.cluster).where(Host.id == demand.host_id)))
    return query


def _headroom(reserves: Mapping[str, int]) -> dict[str, Headroom]:
    _lock(reserves)
    usable_memory = capacity.usable_memory(settings.agents.HOST_RESERVED_MEMORY.by_cluster())
    columns = (
        Host.cluster,
        (Host.state == HostState.UP) & Host.enabled & ~Host.maintenance,
        Host.cpus * Cluster.cpu_overcommit,
        usable_memory,
        Host.allocated_cpus,
        Host.allocated_memory_bytes,
    )
    awake = Host.id.not_in(HostPower.select(HostPower.host))
    query = Host.select(*columns).join(Cluster).where(~Host.removed, awake, Host.cluster.in_(sorted(reserves)))
    by_cluster: defaultdict[str, list[tuple[bool, float, float, int, int]]] = defaultdict(list)
    for cluster_id, *row in tuples(query, tuple[str, bool, float, float, int, int]):
        by_cluster[cluster_id].append((bool(row[0]), row[1], row[2], int(row[3]), int(row[4])))
    return {cluster_id: _of_cluster(by_cluster[cluster_id], hosts) for cluster_id, hosts in reserves.items()}


def _of_cluster(rows: list[tuple[bool, float, float, int, int]], reserve: int) -> Headroom:
    up = [row for row in rows if row[0]]
    failures = max(reserve - (len(rows) - len(up)), 0)
    cpus = sum(row[1] for row in up) - sum(sorted((row[1] for row in up), reverse=True)[:failures])
    memory = sum(row[2] for row in up) - sum(sorted((row[2] for row in up), reverse=True)[:failures])
    return Headroom(math.floor(cpus) - sum(row[3] for row in up), math.floor(memory) - sum(row[4] for row in up))


def _lock(cluster_ids: Mapping[str, int]) -> None:
    if not database.is_sqlite():
        query = Cluster.select(Cluster.id).where(Cluster.id.in_(sorted(cluster_ids)))
        list(query.order_by(Cluster.id).for_update().tuples())
