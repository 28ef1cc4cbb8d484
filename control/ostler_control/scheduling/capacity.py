"""Claims of VMs on the capacity of hosts.

`Host.allocated_cpus` and `allocated_memory_bytes` are running sums over the VMs whose `host` or `destination` it is.
They change only here, by one conditional UPDATE in the transaction that changes the VM's row; its row count is the
verdict, so that concurrent placements never allocate more than there is. Every function is idempotent.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from ostler_common.errors import AbortedError, FailedPreconditionError
from peewee import Case, ColumnBase, ForeignKeyField, ModelUpdate, fn

from ostler_control import database, settings
from ostler_control.models import Cluster, Host, HostState, Vm, db, first_tuple
from ostler_control.models.rows import Row, to_objects
from ostler_control.prepared import Prepared, Value

# What a first claim returns of its host.
_OF_HOST = (Host.hypervisor_type, Host.template_formats, Host.capabilities)


def claim(vm: Vm, host_id: str) -> None:
    """Claims the VM's CPUs and memory on a host, and sets the VM's `host`.

    Raises AbortedError (HOST_TAKEN) when the host lacks the capacity or accepts no VMs any more: place again; and
    FailedPreconditionError (ALREADY_PLACED) when the VM has claimed capacity on another host.
    """
    _claim(vm, host_id, Vm.host)


def claim_destination(vm: Vm, host_id: str) -> None:
    """The same for the host that a VM is migrating to: its row's `destination`."""
    _claim(vm, host_id, Vm.destination)


def resize(vm: Vm, cpus: int, memory_bytes: int) -> None:
    """Gives the VM another size, and changes its claim on its host, if it has one, by the difference.

    Raises AbortedError HOST_TAKEN when the host lacks the capacity or accepts no VMs any more; what a VM gives back is
    always accepted.
    """
    with database.transaction():
        share = _share(vm)
        more_cpus, more_bytes = cpus - share.cpus, memory_bytes - share.memory_bytes
        if share.host_id is not None:
            grows = more_cpus > 0 or more_bytes > 0
            granted = _granted(max(more_cpus, 0), max(more_bytes, 0)) if grows else True
            if not _add(share.host_id, more_cpus, more_bytes, granted):
                raise _taken(vm, share.host_id)
        Vm.update(cpus=cpus, memory_bytes=memory_bytes).where(Vm.id == vm.id).execute()


def release(vm: Vm) -> None:
    """Releases the VM's claim on its host, which becomes its `last_host`."""
    _release(vm, Vm.host)


def release_destination(vm: Vm) -> None:
    """Releases the VM's claim on the destination of a failed migration."""
    _release(vm, Vm.destination)


def arrive(vm: Vm) -> None:
    """Makes the destination the VM's host, and releases its claim on the old one."""
    with database.transaction():
        share = _share(vm)
        if share.destination_id is None:
            return
        if share.host_id is not None:
            _subtract(share.host_id, share)
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
    """Adds up the VMs of every host and reports where the running sums differ.

    One statement, so that it never sees half of a transaction.
    """
    rows = db.execute_sql(_AUDIT).fetchall()
    return [
        Drift(host_id, name, (cpus, memory), (int(actual_cpus), int(actual_memory)))
        for host_id, name, cpus, memory, actual_cpus, actual_memory in rows
    ]


def correct() -> list[Drift]:
    """Sets the running sums that differ to those of the hosts' VMs; returns what was wrong.

    A host whose sums change meanwhile stays as it is: call it again.
    """
    with database.transaction():
        corrected = []
        for drift in audit():
            sums = {Host.allocated_cpus: drift.actual[0], Host.allocated_memory_bytes: drift.actual[1]}
            same = (Host.allocated_cpus == drift.recorded[0]) & (Host.allocated_memory_bytes == drift.recorded[1])
            if Host.update(sums).where((Host.id == drift.host_id) & same).execute():
                corrected.append(drift)
        return corrected


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


def room_for(cpus: int | ColumnBase, memory_bytes: int | ColumnBase, usable_memory: ColumnBase) -> ColumnBase:
    """The condition on a host and its cluster that it accepts VMs and has this much free.

    cpus and memory_bytes: numbers or expressions; usable_memory: what `usable_memory()` gives. Placement's query and
    the claim share this condition, so that what the query finds the claim grants.
    """
    condition: ColumnBase = (
        (Host.state == HostState.UP)
        & Host.enabled
        & ~Host.maintenance
        & ~Host.removed
        & Cluster.enabled
        & (Host.allocated_cpus + cpus <= Host.cpus * Cluster.cpu_overcommit)
        & (Host.allocated_memory_bytes + memory_bytes <= usable_memory)
    )
    return condition


def usable_memory(reserved: Mapping[str, int]) -> ColumnBase:
    """The memory of a host that its VMs may have together, as an expression over the host and its cluster.

    reserved: the values of the setting host.reserved.memory by cluster, "" for all others.
    """
    default = reserved[""]
    own = tuple((cluster_id, value) for cluster_id, value in reserved.items() if cluster_id)
    return (Host.memory_bytes - (Case(Host.cluster, own, default) if own else default)) * Cluster.memory_overcommit


@dataclass(frozen=True)
class _Share:
    """Where a VM has claimed capacity, and how much."""

    host_id: str | None
    destination_id: str | None
    cpus: int
    memory_bytes: int


def _share(vm: Vm) -> _Share:
    """Locks the VM's row and reads it (on SQLite the transaction has locked the whole database)."""
    query = Vm.select(Vm.host, Vm.destination, Vm.cpus, Vm.memory_bytes).where(Vm.id == vm.id)
    locked = query if database.is_sqlite() else query.for_update()
    row = first_tuple(locked, tuple[str | None, str | None, int, int])
    if row is None:
        raise FailedPreconditionError(f'VM "{vm.name}" is gone', "VM_GONE", {"id": vm.id})
    return _Share(*row)


def _claim(vm: Vm, host_id: str, place: ForeignKeyField[Host | None]) -> None:
    with database.joined():
        share = _share(vm)
        claimed = share.host_id if place is Vm.host else share.destination_id
        if claimed == host_id:
            return
        if claimed is not None:
            raise FailedPreconditionError(
                f'VM "{vm.name}" has claimed capacity on another host already', "ALREADY_PLACED", {"host_id": claimed}
            )
        if not _add(host_id, share.cpus, share.memory_bytes, _granted(share.cpus, share.memory_bytes)):
            raise _taken(vm, host_id)
        Vm.update({place: host_id}).where(Vm.id == vm.id).execute()


def claim_first(vm: Vm, host_id: str) -> Host:
    """`claim` for a VM that the caller's transaction has inserted, without a host: nobody else sees its row yet. It
    gets the host's type of hypervisor, too. Raises AbortedError HOST_TAKEN as `claim` does.

    Returns of the host its type, and what its driver reads.
    """
    reserved = settings.agents.HOST_RESERVED_MEMORY.by_cluster()
    statement = _first_claim(tuple(sorted(reserved.items())))
    with database.joined():
        rows = statement.rows(Row, host=host_id, cpus=vm.cpus, memory=vm.memory_bytes)
        if not rows:
            raise _taken(vm, host_id)
        make = to_objects(Host, _OF_HOST)
        assert make is not None
        host: Host = make(rows)[0]  # type: ignore[assignment]
        Vm.change(vm.id, host=host_id, hypervisor_type=host.hypervisor_type)
        return host


@functools.lru_cache(maxsize=64)
def _first_claim(reserved: tuple[tuple[str, int], ...]) -> Prepared:
    def statement(value: Value) -> ModelUpdate:
        cpus, memory_bytes = value("cpus"), value("memory")
        granted = _has_room(cpus, memory_bytes, dict(reserved))
        return _adding(value("host"), cpus, memory_bytes, granted).returning(*_OF_HOST)

    return Prepared(statement)


def _granted(cpus: int, memory_bytes: int) -> ColumnBase:
    """The condition on a host alone that it accepts VMs and has this much free."""
    return _has_room(cpus, memory_bytes, settings.agents.HOST_RESERVED_MEMORY.by_cluster())


def _has_room(cpus: int | ColumnBase, memory_bytes: int | ColumnBase, reserved: Mapping[str, int]) -> ColumnBase:
    room = room_for(cpus, memory_bytes, usable_memory(reserved))
    return fn.EXISTS(Cluster.select(Cluster.id).where((Cluster.id == Host.cluster) & room))


def _taken(vm: Vm, host_id: str) -> AbortedError:
    return AbortedError(
        f'the host chosen for VM "{vm.name}" does not have the capacity any more', "HOST_TAKEN", {"host_id": host_id}
    )


def _release(vm: Vm, place: ForeignKeyField[Host | None]) -> None:
    with database.transaction():
        share = _share(vm)
        claimed = share.host_id if place is Vm.host else share.destination_id
        if claimed is None:
            return
        _subtract(claimed, share)
        last = {Vm.last_host: claimed} if place is Vm.host else {}
        Vm.update({place: None, **last}).where(Vm.id == vm.id).execute()


def _subtract(host_id: str, share: _Share) -> None:
    _add(host_id, -share.cpus, -share.memory_bytes, True)


def _add(host_id: str, cpus: int, memory_bytes: int, condition: ColumnBase | bool) -> bool:
    return bool(_adding(host_id, cpus, memory_bytes, condition).execute())


def _adding(
    host_id: str | ColumnBase, cpus: int | ColumnBase, memory_bytes: int | ColumnBase, condition: ColumnBase | bool
) -> ModelUpdate:
    sums = {
        Host.allocated_cpus: Host.allocated_cpus + cpus,
        Host.allocated_memory_bytes: Host.allocated_memory_bytes + memory_bytes,
    }
    return Host.update(sums).where((Host.id == host_id) & condition)
