"""Reads what `decide` asks for."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from peewee import JOIN, Case, fn

from ostler_control import settings
from ostler_control.events import SYSTEM
from ostler_control.ha import priorities
from ostler_control.ha.decide import HostFacts, Rules
from ostler_control.models import (
    Cluster,
    FenceDevice,
    Host,
    HostFence,
    HostGuard,
    HostSilence,
    HostState,
    LateStart,
    Operation,
    OperationState,
    now,
    tuples,
)
from ostler_control.states import GuardState

FENCE_VERB = "host.fence"
_WINDOW = datetime.timedelta(hours=1)


@dataclass
class Silence:
    """Since when this process has seen each host silent, by its own monotonic clock.

    What other processes saw, or this one before its restart, does not count: a control plane that was away itself
    begins anew, and a clock that jumps changes nothing.
    """

    _since: dict[str, tuple[datetime.datetime, float]] = field(default_factory=dict)
    _is_quiet: bool = True

    def update(self, clock_s: float) -> None:
        """Reads the hosts' states."""
        found = silences()
        self._since = {host_id: self._first(host_id, one.time, clock_s) for host_id, one in found.items()}
        self._is_quiet = not any(one.matters for one in found.values())

    def _first(self, host_id: str, state_time: datetime.datetime, clock_s: float) -> tuple[datetime.datetime, float]:
        before = self._since.get(host_id)
        return before if before and before[0] == state_time else (state_time, clock_s)

    def is_quiet(self) -> bool:
        """Whether no silence matters."""
        return self._is_quiet

    def seconds(self, clock_s: float) -> dict[str, float]:
        """For how long each silent host has been silent."""
        return {host_id: clock_s - since for host_id, (_, since) in self._since.items()}


class HostSilent(NamedTuple):
    """Since when a host is silent. matters: it is not fenced, or its proof says nothing of what it may have run
    since."""

    time: datetime.datetime
    matters: bool


def silences() -> dict[str, HostSilent]:
    """The silent hosts, as the watcher has recorded it."""
    late = LateStart.select(LateStart.host)
    doubtful = Case(None, ((HostFence.heard | Host.id.in_(late), 1),), 0)
    query = Host.select(Host.id, Host.state, Host.state_time, HostSilence.time, doubtful)
    query = query.join(HostFence, JOIN.LEFT_OUTER, on=HostFence.host == Host.id)
    query = query.join(HostSilence, JOIN.LEFT_OUTER, on=HostSilence.host == HostFence.host)
    fenced = (Host.state == HostState.FENCED) & HostSilence.time.is_null(False)
    query = query.where((Host.state == HostState.DISCONNECTED) | fenced, ~Host.removed)
    rows = tuples(query, tuple[str, HostState, datetime.datetime, datetime.datetime, int])
    return {
        host_id: HostSilent(time, True) if state is HostState.DISCONNECTED else HostSilent(fenced_time, bool(doubtful))
        for host_id, state, time, fenced_time, doubtful in rows
    }


def hosts(silent_s: Mapping[str, float]) -> list[HostFacts]:
    """The facts of every host. silent_s: of `Silence`."""
    protected = priorities.protected_by_host()
    devices = {host_id for (host_id,) in tuples(FenceDevice.select(FenceDevice.host), tuple[str])}
    guarding = HostGuard.select(HostGuard.host).where(HostGuard.state == GuardState.GUARDING, HostGuard.term != "")
    leases = {host_id for (host_id,) in tuples(guarding, tuple[str])}
    fences = {row.host_id: row for row in HostFence.select()}
    late = priorities.late_by_host() if fences else {}
    quiet = {host_id for (host_id,) in tuples(HostSilence.select(HostSilence.host), tuple[str])} if fences else set()
    time = now()

    def one(host: Host) -> HostFacts:
        fence = fences.get(host.id)
        return HostFacts(
            id=host.id,
            cluster_id=host.cluster_id,
            state=host.state,
            silent_s=silent_s.get(host.id, 0.0),
            in_service=not host.maintenance,
            protected_vms=max(protected.get(host.id, 0), late.get(host.id, 0)),
            has_device=host.id in devices,
            has_lease=host.id in leases,
            fence=fence.state if fence else None,
            heard=fence.heard if fence else False,
            late_starts=host.id in late,
            fell_silent=host.state is HostState.FENCED and host.id in quiet,
            attempts=fence.attempts if fence else 0,
            failed_s=(time - fence.state_time).total_seconds() if fence else 0.0,
        )

    return [one(host) for host in Host.select().where(~Host.removed).order_by(Host.id)]


def rules() -> dict[str, Rules]:
    """The settings of every cluster, and which of its hosts were fenced lately without an admin, and how often. An
    attempt that failed takes a place of its cluster's limit, and none of its host's: by then its device may answer, or
    its lease."""
    proved = Case(None, ((Operation.state.not_in((OperationState.FAILED, OperationState.CANCELLED)), 1),))
    recent = Operation.select(Host.cluster, Host.id, fn.COUNT(proved)).join(Host, on=(Host.id == Operation.resource_id))
    # What comes from a time that is yet to come was recorded before the clock was put back.
    within = Operation.create_time.between(now() - _WINDOW, now() + _WINDOW)
    recent = recent.where(Operation.verb == FENCE_VERB, Operation.user == SYSTEM, within)
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for cluster_id, host_id, fencings in tuples(recent.group_by(Host.cluster, Host.id), tuple[str, str, int]):
        counts[cluster_id][host_id] = fencings
    enabled, delays, limits = (
        settings.ha.ENABLE.by_cluster(),
        settings.ha.FENCE_DELAY.by_cluster(),
        settings.ha.FENCE_LIMIT.by_cluster(),
    )
    return {
        cluster_id: Rules(
            enabled.get(cluster_id, enabled[""]),
            delays.get(cluster_id, delays[""]),
            limits.get(cluster_id, limits[""]),
            counts[cluster_id],
        )
        for (cluster_id,) in tuples(Cluster.select(Cluster.id), tuple[str])
    }
