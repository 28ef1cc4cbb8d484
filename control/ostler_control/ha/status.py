"""What high availability does in a cluster, as `ostler ha status` shows it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from peewee import Case

from ostler_control import settings
from ostler_control.ha import facts
from ostler_control.ha.decide import Hold, HostFacts, decide
from ostler_control.models import (
    Cluster,
    FenceDevice,
    Host,
    HostFence,
    HostGuard,
    HostPower,
    Priority,
    Vm,
    VmRestart,
    now,
    tuples,
)
from ostler_control.placement import Demand
from ostler_control.placement.reserve import Load, Room, Shortfall, shortfall
from ostler_control.scheduling import placement_query, protection
from ostler_control.states import HostState

EXPLANATIONS: Mapping[Hold, str] = {
    Hold.OFF: "it is proved off: its VMs may start elsewhere",
    Hold.RETURNED: "it was proved off and is heard again: it is given back once nothing there is in doubt",
    Hold.FENCING: "it is being fenced",
    Hold.DISABLED: "silent, and not fenced without an admin: ha.enable is false",
    Hold.MAINTENANCE: "silent, and not fenced: it is in maintenance",
    Hold.NO_VMS: "silent, and not fenced: none of its VMs restarts by itself",
    Hold.NO_DEVICE: "silent, and cannot be fenced: it has neither a fence device (ostler fence add) nor a lease",
    Hold.TOO_MANY_SILENT: "silent, and not fenced without an admin: more than half of the hosts do not answer",
    Hold.WAITING: "silent; it is fenced when it stays silent for ha.fence.delay",
    Hold.RETRY_LATER: "silent; fencing it failed and is tried again",
    Hold.RATE_LIMIT: "silent, and not fenced now: ha.fence.limit was reached in the last hour",
}


@dataclass(frozen=True)
class HostStatus:
    """A host. device_error: of its device's last test; verdict: a `Hold`'s word, "" for a host that is up; guard: how
    its guardian stands, None when it was never to guard anything."""

    row: Host
    facts: HostFacts
    device_error: str
    verdict: str
    explanation: str
    guard: HostGuard | None = None


@dataclass(frozen=True)
class Status:
    """A cluster. shortfall: the failures that its reserve does not cover, None when it covers all."""

    cluster: Cluster
    enabled: bool
    reserve_hosts: int
    shortfall: Shortfall | None
    protected_vms: int
    hosts: tuple[HostStatus, ...]
    restarts: tuple[VmRestart, ...]


def status(cluster: Cluster) -> Status:
    """The status of a cluster.

    For how long hosts have been silent comes from the rows here; the monitor, which may run in another process, trusts
    its own clock alone.
    """
    at = settings.At(cluster_id=cluster.id)
    since = {row_id: (now() - one.time).total_seconds() for row_id, one in facts.silences().items()}
    found = {host.id: host for host in facts.hosts(since)}
    holds = {decision.host_id: decision.hold or Hold.WAITING for decision in decide(found.values(), facts.rules())}
    rows = list(Host.select().where(Host.cluster == cluster.id, ~Host.removed).order_by(Host.name))
    errors = dict(tuples(FenceDevice.select(FenceDevice.host, FenceDevice.test_error), tuple[str, str]))
    guards = {row.host_id: row for row in HostGuard.select()}
    reasons = dict(tuples(HostFence.select(HostFence.host, HostFence.reason), tuple[str, str]))

    def one(row: Host) -> HostStatus:
        host = found[row.id]
        hold = holds.get(row.id)
        told = EXPLANATIONS[hold] if hold else ""
        why = ": ".join(filter(None, (told, reasons.get(row.id, ""))))
        return HostStatus(row, host, errors.get(row.id, ""), hold.value if hold else "", why, guards.get(row.id))

    reserve_hosts = settings.ha.RESERVE_HOSTS.get(at)
    hosts = tuple(one(row) for row in rows)
    return Status(
        cluster,
        settings.ha.ENABLE.get(at),
        reserve_hosts,
        _shortfall(cluster, rows, reserve_hosts),
        sum(host.facts.protected_vms for host in hosts),
        hosts,
        tuple(_restarts(cluster)),
    )


def _shortfall(cluster: Cluster, rows: list[Host], reserve_hosts: int) -> Shortfall | None:
    """A host that is down, other than to save power, counts as one of the failures that the reserve is for."""
    in_service = {row.id for row in rows if row.state is HostState.UP and not row.maintenance}
    query = protection.with_priority(Vm.select(Vm.host, Vm.cpus, Vm.memory_bytes))
    query = query.where(Vm.host.in_(sorted(in_service)), protection.is_protected())
    loads: defaultdict[str, list[Load]] = defaultdict(list)
    for host_id, cpus, memory_bytes in tuples(query, tuple[str, int, int]):
        loads[host_id].append(Load(cpus, memory_bytes))
    rooms = [
        Room(host.id, host.name, host.free_cpus, host.free_memory_bytes, tuple(loads[host.id]))
        for host in placement_query.facts(Demand(cluster.name))
        if host.id in in_service and host.enabled
    ]
    asleep = HostPower.select().where(HostPower.host.in_([row.id for row in rows])).count()
    return shortfall(rooms, max(reserve_hosts - (len(rows) - asleep - len(rooms)), 0))


def _restarts(cluster: Cluster) -> list[VmRestart]:
    rank = Case(VmRestart.priority, tuple((priority.value, priority.rank) for priority in Priority), 0)
    ours = Host.select(Host.id).where(Host.cluster == cluster.id)
    query = VmRestart.select(VmRestart, Vm).join(Vm).where(VmRestart.lost_host_id.in_(ours))
    return list(query.order_by(rank.desc(), Vm.name))
