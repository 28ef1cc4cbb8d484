"""Zones and clusters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, bad_field
from peewee import IntegrityError, fn

from ostler_control import database, events, settings
from ostler_control.catalog.names import check_name
from ostler_control.hypervisors import rules
from ostler_control.models import Cluster, Host, JoinToken, Network, Pool, Zone, tuples

# More virtual CPUs or memory per real one than this is a typing error.
MAX_OVERCOMMIT = 64.0
CHANGEABLE = frozenset({"name", "cpu_overcommit", "memory_overcommit", "enabled"})


def create_zone(name: str, actor: str) -> Zone:
    """Creates a zone. Raises AlreadyExistsError when the name is taken."""
    check_name("name", name)
    try:
        with database.transaction():
            zone: Zone = Zone.create(name=name)
            events.done("zone.create", actor, zone)
            return zone
    except IntegrityError:
        raise AlreadyExistsError(f'there is a zone "{name}" already', "NAME_TAKEN", {"name": name}) from None


def delete_zone(zone: Zone, actor: str) -> None:
    """Deletes a zone that holds no cluster, pool or network; FailedPreconditionError (NOT_EMPTY) otherwise."""
    with database.transaction():
        clusters = Cluster.select().where(Cluster.zone == zone).count()
        networks = Network.select().where(Network.zone == zone).count()
        counts = {"clusters": clusters, "pools": _pools("zone", zone), "networks": networks}
        _refuse_if_used(f'zone "{zone.name}"', zone, counts)
        settings.forget(settings.Scope.ZONE, zone.id)
        zone.delete_instance()
        events.done("zone.delete", actor, zone)


def create_cluster(
    name: str, zone: Zone, cpu_overcommit: float, memory_overcommit: float, actor: str, hypervisor_type: str = ""
) -> Cluster:
    """Creates a cluster; an overcommit of 0 means 1; without a hypervisor type it takes that of its first host.

    Raises AlreadyExistsError when its zone has one of this name, FailedPreconditionError HYPERVISOR_NOT_ALLOWED.
    """
    check_name("name", name)
    cpu_overcommit = _overcommit("cpu_overcommit", cpu_overcommit or 1.0)
    memory_overcommit = _overcommit("memory_overcommit", memory_overcommit or 1.0)
    if hypervisor_type:
        rules.check_allowed(hypervisor_type)
    try:
        with database.transaction():
            cluster: Cluster = Cluster.create(
                name=name,
                zone=zone,
                hypervisor_type=hypervisor_type,
                cpu_overcommit=cpu_overcommit,
                memory_overcommit=memory_overcommit,
            )
            events.done("cluster.create", actor, cluster)
            return cluster
    except IntegrityError:
        raise _cluster_taken(name) from None


def update_cluster(cluster: Cluster, changes: Mapping[str, Any], actor: str) -> Cluster:
    """Changes some of CHANGEABLE; their values are of the columns' types.

    The overcommit may become less than is already allocated: VMs keep running, and none is placed until it fits.
    """
    for field, value in changes.items():
        if field == "name":
            check_name("values.name", value)
        elif field.endswith("_overcommit"):
            _overcommit(f"values.{field}", value)
    try:
        with database.transaction():
            Cluster.update(dict(changes)).where(Cluster.id == cluster.id).execute()
            changed: Cluster = Cluster.get_by_id(cluster.id)
            said = ", ".join(f"{field} {value}" for field, value in sorted(changes.items()))
            events.done("cluster.update", actor, changed, said)
            return changed
    except IntegrityError:
        raise _cluster_taken(changes["name"]) from None


def delete_cluster(cluster: Cluster, actor: str) -> None:
    """Deletes a cluster that holds no host and no pool; FailedPreconditionError (NOT_EMPTY) otherwise."""
    with database.transaction():
        hosts = Host.select().where(Host.cluster == cluster, ~Host.removed).count()
        _refuse_if_used(f'cluster "{cluster.name}"', cluster, {"hosts": hosts, "pools": _pools("cluster", cluster)})
        Host.delete().where(Host.cluster == cluster, Host.removed).execute()
        JoinToken.delete().where(JoinToken.cluster_id == cluster.id).execute()
        settings.forget(settings.Scope.CLUSTER, cluster.id)
        cluster.delete_instance()
        events.done("cluster.delete", actor, cluster)


def _overcommit(field: str, value: float) -> float:
    if not (math.isfinite(value) and 1.0 <= value <= MAX_OVERCOMMIT):
        raise bad_field(field, f"must be 1 to {MAX_OVERCOMMIT:g}", reason="INVALID_OVERCOMMIT")
    return value


def _pools(scope: str, row: Zone | Cluster) -> int:
    count: int = Pool.select().where(Pool.scope == scope, Pool.scope_id == row.id).count()
    return count


def _refuse_if_used(what: str, row: Zone | Cluster, counts: Mapping[str, int]) -> None:
    held = ", ".join(
        f"{count} {word if count > 1 else word.removesuffix('s')}" for word, count in counts.items() if count
    )
    if held:
        raise FailedPreconditionError(f"{what} still holds {held}: remove them first", "NOT_EMPTY", {"name": row.name})


def _cluster_taken(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(f'its zone has a cluster "{name}" already', "NAME_TAKEN", {"name": name})


def host_counts(cluster_ids: list[str]) -> dict[str, int]:
    """How many hosts each of these clusters has; those with none are left out."""
    query = Host.select(Host.cluster, fn.COUNT(Host.id)).where(Host.cluster.in_(cluster_ids), ~Host.removed)
    return dict(tuples(query.group_by(Host.cluster), tuple[str, int]))
