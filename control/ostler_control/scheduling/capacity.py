"""Who has claimed how much of which host.

`Host.allocated_cpus` and `allocated_memory_bytes` are running sums over the VMs whose `host` or `destination` it is.
They change only here, by one conditional UPDATE in the transaction that changes the VM's row; its row count is the
verdict, so that no number of deployments at once gives out more than there is. Every function may be called again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ostler_common.errors import AbortedError, FailedPreconditionError
from peewee import Case, fn

from ostler_control import database, settings
from ostler_control.models import Cluster, Host, Vm, db


def claim(vm: Vm, host_id: str) -> None:
    """Gives the VM its share of this host, and the VM's row its `host`.

    Raises AbortedError (HOST_TAKEN) when the host has no room for it or takes no VMs any more: place again; and
    FailedPreconditionError (ALREADY_PLACED) when the VM has its share of another host.
    """
    _claim(vm, host_id, Vm.host)


def claim_destination(vm: Vm, host_id: str) -> None:
    """The same for the host that a VM is migrating to: its row's `destination`."""
    _claim(vm, host_id, Vm.destination)


def release(vm: Vm) -> None:
    """Gives back the VM's share of its host, which becomes its `last_host`."""
    _release(vm, Vm.host)


def release_destination(vm: Vm) -> None:
    """Gives back the VM's share of the host that it did not reach."""
    _release(vm, Vm.destination)


def arrive(vm: Vm) -> None:
    """The VM is at its destination: that is its host now, and its share of the old one is given back."""
    with database.transaction():
        share = _share(vm)
        if share.destination_id is None:
            return
        if share.host_id is not None:
            _give_back(share.host_id, share)
        changes = {Vm.host: share.destination_id, Vm.last_host: share.destination_id, Vm.destination: None}
        Vm.update(changes).where(Vm.id == vm.id).execute()


@dataclass(frozen=True)
class Drift:
    """A host whose sums are not those of its VMs: (cpus, memory in bytes) as recorded and as they should be."""

    host_id: str
    host_name: str
    recorded: tuple[int, int]
    actual: tuple[int, int]


def audit() -> list[Drift]:
    """Adds up the VMs of every host anew and reports where the running sums differ.

    One statement, so that it never sees half of somebody's transaction.
    """
    rows = db.execute_sql(_AUDIT).fetchall()
    return [
        Drift(host_id, name, (cpus, memory), (int(actual_cpus), int(actual_memory)))
        for host_id, name, cpus, memory, actual_cpus, actual_memory in rows
    ]


_AUDIT = """
    SELECT host.id, host.name, host.allocated_cpus, host.allocated_memory_bytes,
        COALESCE(SUM(share.cpus), 0), COALESCE(SUM(share.memory_bytes), 0)
    FROM host LEFT JOIN (
        SELECT host_id AS place, cpus, memory_bytes FROM vm WHERE host_id IS NOT NULL
        UNION ALL
        SELECT destination_id, cpus, memory_bytes FROM vm WHERE destination_id IS NOT NULL
    ) AS share ON share.place = host.id
    GROUP BY host.id, host.name, host.allocated_cpus, host.allocated_memory_bytes
    HAVING host.allocated_cpus <> COALESCE(SUM(share.cpus), 0)
        OR host.allocated_memory_bytes <> COALESCE(SUM(share.memory_bytes), 0)
    ORDER BY host.name
"""


def room_for(cpus: Any, memory_bytes: Any, usable_memory: Any) -> Any:
    """The condition on a host and its cluster that it takes VMs and has this much left.

    cpus and memory_bytes: numbers or expressions; usable_memory: what `usable_memory()` gives. Placement's query and
    the claim share the condition, so that what the one finds the other grants.
    """
    return (
        (Host.state == "up")
        & Host.enabled
        & ~Host.maintenance
        & ~Host.removed
        & Cluster.enabled
        & (Host.allocated_cpus + cpus <= Host.cpus * Cluster.cpu_overcommit)
        & (Host.allocated_memory_bytes + memory_bytes <= usable_memory)
    )


def usable_memory(reserved: Mapping[str, int]) -> Any:
    """What VMs may be given of a host's memory in all, as an expression over the host and its cluster.

    reserved: the values of the setting host.reserved.memory by cluster, "" for all others.
    """
    default = reserved[""]
    own = tuple((cluster_id, value) for cluster_id, value in reserved.items() if cluster_id)
    return (Host.memory_bytes - (Case(Host.cluster, own, default) if own else default)) * Cluster.memory_overcommit


@dataclass(frozen=True)
class _Share:
    """Where a VM's share is claimed, and how large it is."""

    host_id: str | None
    destination_id: str | None
    cpus: int
    memory_bytes: int


def _share(vm: Vm) -> _Share:
    """Read under the row's lock (on SQLite the transaction has the whole database's)."""
    query: Any = Vm.select(Vm.host, Vm.destination, Vm.cpus, Vm.memory_bytes).where(Vm.id == vm.id)
    row = (query if database.is_sqlite() else query.for_update()).tuples().first()
    if row is None:
        raise FailedPreconditionError(f'VM "{vm.name}" is gone', "VM_GONE", {"id": vm.id})
    return _Share(*row)


def _claim(vm: Vm, host_id: str, place: Any) -> None:
    with database.transaction():
        share = _share(vm)
        claimed = share.host_id if place is Vm.host else share.destination_id
        if claimed == host_id:
            return
        if claimed is not None:
            raise FailedPreconditionError(
                f'VM "{vm.name}" has its place on another host already', "ALREADY_PLACED", {"host_id": claimed}
            )
        room = room_for(
            share.cpus, share.memory_bytes, usable_memory(settings.agents.HOST_RESERVED_MEMORY.by_cluster())
        )
        granted = fn.EXISTS(Cluster.select(Cluster.id).where((Cluster.id == Host.cluster) & room))
        if not _add(host_id, share.cpus, share.memory_bytes, granted):
            raise AbortedError(
                f'the host chosen for VM "{vm.name}" has no room for it any more', "HOST_TAKEN", {"host_id": host_id}
            )
        Vm.update({place: host_id}).where(Vm.id == vm.id).execute()


def _release(vm: Vm, place: Any) -> None:
    with database.transaction():
        share = _share(vm)
        claimed = share.host_id if place is Vm.host else share.destination_id
        if claimed is None:
            return
        _give_back(claimed, share)
        last = {Vm.last_host: claimed} if place is Vm.host else {}
        Vm.update({place: None, **last}).where(Vm.id == vm.id).execute()


def _give_back(host_id: str, share: _Share) -> None:
    _add(host_id, -share.cpus, -share.memory_bytes, True)


def _add(host_id: str, cpus: int, memory_bytes: int, condition: Any) -> bool:
    sums = {
        Host.allocated_cpus: Host.allocated_cpus + cpus,
        Host.allocated_memory_bytes: Host.allocated_memory_bytes + memory_bytes,
    }
    return bool(Host.update(sums).where((Host.id == host_id) & condition).execute())
