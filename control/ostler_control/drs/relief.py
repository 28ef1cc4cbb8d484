"""Moving VMs away from hosts that are hot: that use more of their CPUs or memory than they should."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from enum import StrEnum

from ostler_control.drs.model import Host, Mode, Plan, Snapshot, Verdict
from ostler_control.drs.planner import plan
from ostler_control.drs.settings import Settings


class Resource(StrEnum):
    """What a host is hot in."""

    CPU = "cpu"
    MEMORY = "memory"


_WORDS = {Resource.CPU: "CPUs", Resource.MEMORY: "memory"}


def used_share(host: Host, resource: Resource) -> float | None:
    """What a host uses of what it has for VMs, 1.0 is all; None without samples or without any of it."""
    if resource is Resource.CPU:
        used, total = host.measured_cpu_mhz, host.cpu_mhz - host.reserved_cpu_mhz
    else:
        used, total = host.measured_memory_bytes, host.memory_bytes - host.reserved_memory_bytes
    return None if used is None or total <= 0 else used / total


def hot_hosts(snapshot: Snapshot, settings: Settings) -> dict[str, frozenset[Resource]]:
    """Hosts in service that use more than drs.hot.threshold, by id, with what they are hot in."""
    found = {}
    for host in snapshot.hosts:
        hot = {one for one in Resource if (used_share(host, one) or 0.0) > settings.hot_threshold}
        if host.in_service and hot and settings.hot_threshold < 1.0:
            found[host.id] = frozenset(hot)
    return found


def relieve(snapshot: Snapshot, settings: Settings, hot: Mapping[str, Collection[Resource]]) -> Plan:
    """The plan of fewest moves found that brings every host below drs.hot.threshold, else the one that comes closest.

    Only VMs of the hot hosts move, to hosts that use less; drs.imbalance and drs.algorithm do not count. A plan that
    helps no hot host has no moves. Raises as `plan`.
    """
    resources = sorted({resource for found in hot.values() for resource in found})
    wanted = dataclasses.replace(
        settings,
        algorithm="balanced",
        imbalance=1.0,
        source="measured",
        metric=resources[0] if len(resources) == 1 else "both",
        metric_type="used",
        metric_use_ratio=True,
    )
    best: Plan | None = None
    most = 1
    while True:
        found = plan(snapshot, dataclasses.replace(wanted, max_migrations=most), sources=frozenset(hot))
        if best is None or _excess(found, resources, settings) < _excess(best, resources, settings) - 1e-9:
            best = found
        if most >= settings.max_migrations or len(found.moves) < most or _excess(best, resources, settings) <= 0.0:
            break
        most = min(2 * most, settings.max_migrations)
    why = _told(snapshot, settings, hot)
    if _excess(best, resources, settings) >= _excess(best, resources, settings, before=True):
        return _without_moves(best, f"{why}; no move that is allowed helps")
    return dataclasses.replace(best, explanation=f"{why}; {best.explanation}")


def _excess(found: Plan, resources: Collection[Resource], settings: Settings, *, before: bool = False) -> float:
    """By how much hosts are above the threshold, added up."""
    when = "before" if before else "after"
    shares = [getattr(load, f"{one}_{when}") for load in found.loads if load.counted for one in resources]
    return float(sum(max(share - settings.hot_threshold, 0.0) for share in shares))


def _told(snapshot: Snapshot, settings: Settings, hot: Mapping[str, Collection[Resource]]) -> str:
    words = [
        f"host {host.name} uses {used_share(host, one) or 0.0:.0%} of its {_WORDS[one]}"
        for host in snapshot.hosts
        for one in sorted(hot.get(host.id, ()))
    ]
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return f"{', '.join(words[:3])}{more} (drs.hot.threshold {settings.hot_threshold:g})"


def _without_moves(found: Plan, explanation: str) -> Plan:
    loads = tuple(
        dataclasses.replace(
            load,
            vms_after=load.vms_before,
            cpu_after=load.cpu_before,
            memory_after=load.memory_before,
            value_after=load.value_before,
        )
        for load in found.loads
    )
    return dataclasses.replace(
        found,
        mode=Mode.BALANCE,
        verdict=Verdict.NOTHING_HELPS,
        explanation=explanation,
        imbalance_after=found.imbalance_before,
        moves=(),
        broken_after=found.broken_before,
        loads=loads,
    )
