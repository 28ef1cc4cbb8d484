"""What automatic plans act on once it has lasted: a cluster is unbalanced, a host is hot.

One row for each such condition, from when it was first seen until it no longer holds. A condition that was not checked
for a while, as while no control plane ran, begins anew.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum

from ostler_common.errors import OstlerError

from ostler_control import settings
from ostler_control.database import session, transaction
from ostler_control.drs.algorithms import algorithm
from ostler_control.drs.planner import check_measured
from ostler_control.drs.relief import Resource, hot_hosts
from ostler_control.drs.rules import Neighbours
from ostler_control.drs.state import State
from ostler_control.drs_plans.snapshot import Present, take
from ostler_control.models import Cluster, DrsCondition, Host, tuples

# A condition that nobody has checked for so long may have ended and come back.
MAX_GAP = datetime.timedelta(minutes=5)


class Kind(StrEnum):
    """What holds."""

    UNBALANCED = "unbalanced"
    HOT_CPU = "hot_cpu"
    HOT_MEMORY = "hot_memory"


_HOT = {Kind.HOT_CPU: Resource.CPU, Kind.HOT_MEMORY: Resource.MEMORY}
_KINDS = {resource: kind for kind, resource in _HOT.items()}


@dataclass(frozen=True)
class Condition:
    """host_id: of a hot host, "" otherwise; start_time: since when; held_time: from when on a plan acts on it."""

    kind: Kind
    host_id: str
    start_time: datetime.datetime
    held_time: datetime.datetime


def update(cluster: Cluster, time: datetime.datetime) -> None:
    """Records what holds at this time."""
    with session():
        present = take(cluster, time)
    found = {(Kind.UNBALANCED, "")} if _unbalanced(present) else set()
    for host_id, resources in hot_hosts(present.snapshot, present.settings).items():
        found |= {(_KINDS[resource], host_id) for resource in resources}
    with transaction():
        for row in DrsCondition.select().where(DrsCondition.cluster == cluster.id):
            key = (Kind(row.kind), row.host_id)
            if key not in found:
                row.delete_instance()
                continue
            found.discard(key)
            start_time = row.start_time if time - row.seen_time <= MAX_GAP else time
            changes = {"start_time": start_time, "seen_time": time}
            DrsCondition.update(changes).where(DrsCondition.id == row.id).execute()
        for kind, host_id in sorted(found):
            DrsCondition.create(cluster=cluster, kind=kind.value, host_id=host_id, start_time=time, seen_time=time)


def _unbalanced(present: Present) -> bool:
    """Whether the algorithm calls for moves. A strict rule that is broken is not waited for."""
    wanted = present.settings
    try:
        check_measured(present.snapshot, wanted)
        state = State(present.snapshot, wanted, algorithm(wanted.algorithm))
    except OstlerError:
        return False  # the plan that is due says why none can be made
    if any(rule.strict for rule in Neighbours(present.snapshot).broken()):
        return False
    return state.count >= 2 and state.needs_drs()


def of_cluster(cluster: Cluster) -> list[Condition]:
    """The conditions that hold, the first to be acted on first."""
    hold = datetime.timedelta(minutes=settings.drs.AUTOMATIC_HOLD.get(settings.At(cluster_id=cluster.id)))
    query = DrsCondition.select(DrsCondition.kind, DrsCondition.host_id, DrsCondition.start_time)
    query = query.where(DrsCondition.cluster == cluster.id).order_by(DrsCondition.start_time, DrsCondition.kind)
    rows = tuples(query, tuple[str, str, datetime.datetime])
    return [Condition(Kind(kind), host_id, start, start + hold) for kind, host_id, start in rows]


def hot(conditions: list[Condition], time: datetime.datetime) -> dict[str, frozenset[Resource]]:
    """Hosts that have been hot for long enough, by id."""
    found: dict[str, frozenset[Resource]] = {}
    for one in conditions:
        if one.kind in _HOT and one.held_time <= time:
            found[one.host_id] = found.get(one.host_id, frozenset()) | {_HOT[one.kind]}
    return found


def words(cluster: Cluster) -> list[str]:
    """The conditions for people."""
    found = of_cluster(cluster)
    query = Host.select(Host.id, Host.name).where(Host.id.in_([one.host_id for one in found if one.host_id]))
    names = dict(tuples(query, tuple[str, str]))
    return [
        f"{f'host {names[one.host_id]} is hot ({_HOT[one.kind]})' if one.kind in _HOT else 'unbalanced'} "
        f"since {one.start_time:%Y-%m-%d %H:%M} UTC"
        for one in found
        if not one.host_id or one.host_id in names
    ]
