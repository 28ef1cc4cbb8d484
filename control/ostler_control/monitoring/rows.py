"""The queries behind the metrics: counts and sums, so that a page costs the same few queries at any time."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from peewee import fn

from ostler_control.models import (
    Account,
    Cluster,
    DrsMove,
    DrsPlan,
    Host,
    HostGuard,
    Kek,
    Operation,
    Pool,
    Vm,
    VmRestart,
    Zone,
    now,
)
from ostler_control.models.columns import first_tuple, tuples
from ostler_control.objects import stores
from ostler_control.states import UNFINISHED_OPERATIONS, GuardState, PowerState, VmState


@dataclass(frozen=True)
class HostRow:
    """A host. Memory in bytes."""

    id: str
    name: str
    cluster: str
    zone: str
    state: str
    enabled: bool
    maintenance: bool
    cpus: int
    memory_bytes: int
    allocated_cpus: int
    allocated_memory_bytes: int


@dataclass(frozen=True)
class PoolRow:
    """A pool, in bytes as last measured."""

    name: str
    type: str
    capacity_bytes: int
    available_bytes: int


def guarding() -> dict[str, bool]:
    """By id of each host that is to guard itself: whether it does."""
    told = ~((HostGuard.state == GuardState.OFF) & (HostGuard.reason == ""))
    query = HostGuard.select(HostGuard.host, HostGuard.state).where(told)
    return {host_id: state is GuardState.GUARDING for host_id, state in tuples(query, tuple[str, GuardState])}


def waiting_restarts() -> int:
    """VMs of hosts that are proved off that have not started elsewhere yet."""
    return VmRestart.select().count()


def hosts() -> list[HostRow]:
    """All hosts but the removed ones."""
    query = (
        Host.select(
            Host.id,
            Host.name,
            Cluster.name,
            Zone.name,
            Host.state,
            Host.enabled,
            Host.maintenance,
            Host.cpus,
            Host.memory_bytes,
            Host.allocated_cpus,
            Host.allocated_memory_bytes,
        )
        .join(Cluster)
        .join(Zone)
        .where(~Host.removed)
        .order_by(Host.name)
    )
    found = tuples(query, tuple[str, str, str, str, str, bool, bool, int, int, int, int])
    return [HostRow(*row) for row in found]


def pools() -> list[PoolRow]:
    """Pools that have been measured. A bucket is not: its size is not known."""
    query = Pool.select(Pool.name, Pool.type, Pool.capacity_bytes, Pool.available_bytes)
    query = query.where(Pool.measure_time.is_null(False), Pool.type != stores.TYPE).order_by(Pool.name)
    return [PoolRow(*row) for row in tuples(query, tuple[str, str, int, int])]


def vms_by_state() -> dict[str, int]:
    """How many VMs are in each state."""
    query = Vm.select(Vm.state, fn.COUNT(Vm.id)).group_by(Vm.state)
    return dict(tuples(query, tuple[str, int]))


def vm_names() -> list[tuple[str, str, str]]:
    """Id, name and account of each VM that has a host."""
    query = Vm.select(Vm.id, Vm.name, Account.name).join(Account).where(Vm.host.is_null(False))
    return tuples(query, tuple[str, str, str])


def vms_with_attention() -> int:
    """How many VMs differ from what their hosts report."""
    return Vm.select().where(Vm.attention != "").count()


def paused_vms() -> int:
    """How many VMs that should run are paused on their host."""
    return Vm.select().where((Vm.state == VmState.RUNNING) & (Vm.power_state == PowerState.PAUSED)).count()


def unfinished_operations() -> dict[tuple[str, str], int]:
    """How many operations are under way, by verb and state: the journal's queue."""
    query = Operation.select(Operation.verb, Operation.state, fn.COUNT(Operation.id)).where(
        Operation.state.in_(UNFINISHED_OPERATIONS)
    )
    rows = tuples(query.group_by(Operation.verb, Operation.state), tuple[str, str, int])
    return {(verb, state): count for verb, state, count in rows}


def oldest_operation_age_s() -> float:
    """Age of the oldest unfinished operation, seconds; 0 when there is none."""
    query = Operation.select(fn.MIN(Operation.create_time).alias("oldest")).where(
        Operation.state.in_(UNFINISHED_OPERATIONS)
    )
    row = first_tuple(query, tuple[datetime.datetime | str | None])
    if row is None or row[0] is None:
        return 0.0
    oldest = datetime.datetime.fromisoformat(row[0]) if isinstance(row[0], str) else row[0]
    return max(0.0, (now() - oldest).total_seconds())


def plans_by_state() -> dict[str, int]:
    """How many DRS plans are in each state."""
    query = DrsPlan.select(DrsPlan.state, fn.COUNT(DrsPlan.id)).group_by(DrsPlan.state)
    return dict(tuples(query, tuple[str, int]))


def moves_by_state() -> dict[str, int]:
    """How many moves of DRS plans are in each state."""
    query = DrsMove.select(DrsMove.state, fn.COUNT(DrsMove.id)).group_by(DrsMove.state)
    return dict(tuples(query, tuple[str, int]))


def key_version_times() -> dict[str, datetime.datetime]:
    """When each version of the key-encryption key was first used, and so how old it is."""
    return dict(tuples(Kek.select(Kek.id, Kek.create_time), tuple[str, datetime.datetime]))
