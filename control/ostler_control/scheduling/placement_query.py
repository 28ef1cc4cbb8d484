"""From the database to placement and back: reads what placement needs, and claims what it chose."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

from ostler_common.errors import AbortedError, FailedPreconditionError
from ostler_common.hypervisors import Function
from peewee import SQL, Case, ColumnBase, Model, Select, fn

from ostler_control import database, settings
from ostler_control.catalog.firmware import SECURE_BOOT, is_uefi
from ostler_control.hosts.probes import failed_probes
from ostler_control.hypervisors import proved as proved_functions
from ostler_control.hypervisors import rules
from ostler_control.models import (
    AffinityMember,
    Cluster,
    Host,
    HostState,
    Nic,
    Pool,
    PoolHost,
    Vm,
    VmTpm,
    Volume,
    db,
    owners,
    tuples,
)
from ostler_control.networks.needs import Needs, needs_of
from ostler_control.placement import (
    Candidate,
    Demand,
    HostFacts,
    Placement,
    PoolFacts,
    choose_pools,
    explain,
    place,
    refusal,
)
from ostler_control.prepared import Prepared, Value
from ostler_control.scheduling import affinity, capacity, reserve
from ostler_control.scheduling.stores import check_holds_volumes, holds_volumes

# Two concurrent placements may choose the same last capacity; the loser places again.
_MAX_ATTEMPTS = 20
# Enough that one of them passes the filters that the query leaves out.
_BEST = 32
_NOTHING: frozenset[str] = frozenset()


def _score(sqlite: bool) -> SQL:
    """The sum of placement.scorers without the preferred host, exactly; a test proves that both choose alike."""

    def share(of: str) -> str:
        left, usable = (f"CAST({n}_{of} AS INTEGER)" if sqlite else f"FLOOR({n}_{of})" for n in ("left", "usable"))
        return f"COALESCE({left} * 1.0 / NULLIF({usable}, 0), 0)"

    memory, cpus = share("memory"), share("cpus")
    return SQL(f"{memory} + 0.5 * {cpus} + 0.25 * (1 - ABS({memory} - {cpus})) DESC")


def demand_of(vm: Vm, having: Mapping[type[Model], object] | None = None, /, **changes: object) -> Demand:
    """What this VM demands of a host: size, type, firmware, networks, its volumes' pools and encryption, its affinity.

    Of two concurrent placements in one affinity group the second waits for the first's transaction.

    having: of `Volume`, `VmTpm`, `Nic` and `AffinityMember` whether the VM has such rows, where the caller knows;
    changes: further fields of Demand (host_id, cluster_id, excluded_host_id, pool_choices, ...).
    """
    if having is None:
        having = owners(*((column, [vm.id]) for column in (Volume.vm_id, VmTpm.vm, Nic.vm, AffinityMember.vm)))
    volumes = Volume.select(Volume.pool, Volume.passphrase, Volume.format).where(Volume.vm_id == vm.id)
    rows = tuples(volumes, tuple[str, str | None, str]) if having[Volume] else []
    fields: dict[str, Any] = {  # Any: Demand checks none of them, its tests do
        "name": vm.name,
        "cpus": vm.cpus,
        "memory_bytes": vm.memory_bytes,
        "volume_encryption": any(passphrase for _, passphrase, _ in rows),
        "hypervisor_type": vm.hypervisor_type,
        "formats": frozenset(disk_format for _, _, disk_format in rows),
        "uefi": is_uefi(vm.firmware),
        "secure_boot": vm.firmware == SECURE_BOOT,
        "tpm": bool(having[VmTpm]),
        **vars(needs_of(vm.id) if having[Nic] else Needs()),
        "pool_choices": tuple((pool,) for pool in sorted({pool for pool, _, _ in rows})),
        "affinity": affinity.affinity_rules_of(vm) if having[AffinityMember] else None,
    }
    return Demand(**{**fields, **changes})


def find(demand: Demand) -> Placement:
    """The host for this demand; claims nothing. Raises like `placement.place`; where hosts lack volume encryption, it
    names them and their failed probes."""
    # Few VMs have affinity groups: for those, reading every host is simpler than a query that knows groups.
    for reaching in (False, True) if demand.affinity is None else ():
        refused = 0
        for host in _best_facts(demand, reaching):
            if refusal(demand, host) is None:
                return place(demand, [host])  # those after it are no better
            refused += 1
        if refused < _BEST or not demand.pool_choices:
            break  # there are no others
    every = facts(demand)
    try:
        return place(demand, every)
    except FailedPreconditionError as error:
        if "LACKS_VOLUME_ENCRYPTION" not in error.metadata:
            raise
        refusals = {host.id: refusal(demand, host) for host in every}
        lacking = [host_id for host_id, no in refusals.items() if no and no.code == "LACKS_VOLUME_ENCRYPTION"]
        probes = failed_probes(lacking)
        raise FailedPreconditionError(
            f"{error.message}; not proved on {probes}", error.reason, {**error.metadata, "probes": probes}
        ) from None


def find_and_claim(vm: Vm, demand: Demand, claim: Callable[[Vm, str], object] = capacity.claim) -> Placement:
    """The host for this VM, its capacity claimed there, in one transaction; places again when somebody else was faster.

    claim: or `capacity.claim_destination`. Raises like `placement.place`.
    """
    for attempt in range(_MAX_ATTEMPTS):
        try:
            with database.joined():
                placement = find(demand)
                claim(vm, placement.host_id)
                return placement
        except AbortedError:
            if attempt == _MAX_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def candidates(demand: Demand) -> list[Candidate]:
    """Every host with its score or refusal, best first; hypervisor types by their display names."""
    names = rules.names()

    def name(word: str) -> str:
        return names.get(word, word)  # no two types have one name, so that it compares as the type does

    wanted = dataclasses.replace(
        demand, hypervisor_type=name(demand.hypervisor_type), allowed_types=frozenset(map(name, demand.allowed_types))
    )
    hosts = facts(demand)
    return explain(
        wanted,
        [h._replace(hypervisor_type=name(h.hypervisor_type), cluster_type=name(h.cluster_type)) for h in hosts],
    )


def pools_for(
    name: str, size_bytes: int, encrypted: bool, *, pool_id: str = "", zone_id: str = "", cluster_id: str = ""
) -> tuple[str, ...]:
    """Ids of the eligible pools for a new disk, best first: an element of `Demand.pool_choices`.

    Considers pools that some host of the zone or cluster reaches, but no backup stores. Raises like
    `placement.choose_pools`, and FailedPreconditionError POOL_IS_STORE.
    """
    return tuple(
        types_of_pools_for(name, size_bytes, encrypted, pool_id=pool_id, zone_id=zone_id, cluster_id=cluster_id)
    )


def types_of_pools_for(
    name: str, size_bytes: int, encrypted: bool, *, pool_id: str = "", zone_id: str = "", cluster_id: str = ""
) -> dict[str, str]:
    """The same with the pools' types, by id in that order."""
    query = _pools_query(bool(pool_id), bool(zone_id), bool(cluster_id))
    rows = query.rows(tuple[str, str, str, bool, bool, int], pool=pool_id, zone=zone_id, cluster=cluster_id)
    if pool_id and not rows:
        check_holds_volumes(pool_id)
    types = {found_id: pool_type for found_id, pool_type, *_ in rows}
    pools = [PoolFacts(row[0], row[2], bool(row[3]), bool(row[4]), row[5]) for row in rows]
    return {chosen: types[chosen] for chosen in choose_pools(name, size_bytes, encrypted, pools)}


@functools.cache
def _pools_query(by_pool: bool, by_zone: bool, by_cluster: bool) -> Prepared:
    def query(value: Value) -> Select:
        columns = (Pool.id, Pool.type, Pool.name, Pool.shared, Pool.encryption, Pool.available_bytes)
        found = Pool.select(*columns).where(holds_volumes())
        if by_pool:
            return found.where(Pool.id == value("pool"))
        reached = PoolHost.select(PoolHost.id).join(Host).join(Cluster).where(PoolHost.reachable, ~Host.removed)
        if by_zone:
            reached = reached.where(Cluster.zone == value("zone"))
        if by_cluster:
            reached = reached.where(Cluster.id == value("cluster"))
        return found.where(fn.EXISTS(reached.where(PoolHost.pool == Pool.id)))

    return Prepared(query)


def facts(demand: Demand) -> list[HostFacts]:
    """The facts of every host."""
    reserved = settings.agents.HOST_RESERVED_MEMORY.by_cluster()
    query = Host.select(*_columns(capacity.usable_memory(reserved))).join(Cluster).where(~Host.removed)
    rows = db.execute_sql(*query.sql()).fetchall()
    reach = _reach(demand)
    proved, spare = _proved(demand), reserve.headroom(demand)
    return [_host(row, reach.get(row[0], _NOTHING), proved.get(row[0], _NOTHING), spare.get(row[2])) for row in rows]


def _best_facts(demand: Demand, reaching: bool) -> Iterator[HostFacts]:
    """The facts of a few hosts that the database already sees to fit, best first: what makes placement fast.

    `find` asks every filter again and the claim its own, so a condition that is not asked here costs only time. The
    order is that of `placement.scorers`, and of their ids where hosts are equal.

    reaching: only hosts that reach a pool of each disk. To ask that of each of a thousand hosts takes as long as the
    rest; of pools of a whole zone, which nearly all of them reach, it is first asked of the best only.
    """
    reserved = settings.agents.HOST_RESERVED_MEMORY.by_cluster()
    choices = tuple(map(len, demand.pool_choices))
    wanted = (
        bool(demand.host_id),
        bool(demand.cluster_id),
        bool(demand.zone_id),
        bool(demand.hypervisor_type),
        bool(demand.preferred_host_id),
    )
    query = _best_query(demand.volume_encryption, wanted, choices, reaching, tuple(sorted(reserved.items())))
    pools = {
        _pool(disk, number): pool for disk, ids in enumerate(demand.pool_choices) for number, pool in enumerate(ids)
    }
    rows = query.rows(_Row, **vars(demand), **pools)
    proved, spare = _proved(demand), reserve.headroom(demand)
    ids = [*pools.values()]
    return (
        _host(
            row,
            frozenset(pool for pool, reached in zip(ids, row[_BEFORE_REACH:], strict=True) if reached),
            proved.get(row[0], _NOTHING),
            spare.get(row[2]),
        )
        for row in rows
    )


# Any: the columns of `_columns`, in raw SQL's order.
_Row = tuple[Any, ...]


def _pool(disk: int, number: int) -> str:
    """The name of the value that is the disk's pool with this number."""
    return f"pool_{disk}_{number}"


@functools.lru_cache(maxsize=256)
def _best_query(
    volume_encryption: bool,
    wanted: tuple[bool, bool, bool, bool, bool],
    choices: tuple[int, ...],
    reaching: bool,
    reserved: tuple[tuple[str, int], ...],
) -> Prepared:
    """The query of `_best_facts`, written once for each kind of demand: that takes longer than running it."""
    return Prepared(lambda value: _best_select(value, volume_encryption, wanted, choices, reaching, reserved))


def _best_select(
    value: Value,
    volume_encryption: bool,
    wanted: tuple[bool, bool, bool, bool, bool],
    choices: tuple[int, ...],
    reaching: bool,
    reserved: tuple[tuple[str, int], ...],
) -> Select:
    usable_memory = capacity.usable_memory(dict(reserved))
    columns = _columns(usable_memory)
    left_cpus, left_memory = columns[-2] - value("cpus"), columns[-1] - value("memory_bytes")
    query = Host.select(*columns, left_cpus.alias("left_cpus"), left_memory.alias("left_memory")).join(Cluster)
    query = query.where(capacity.room_for(value("cpus"), value("memory_bytes"), usable_memory))
    if volume_encryption:
        query = query.where(Host.volume_encryption)
    by_host, by_cluster, by_zone, by_type, preferred = wanted
    if by_host:
        query = query.where(Host.id == value("host_id"))
    if by_cluster:
        query = query.where(Host.cluster == value("cluster_id"))
    if by_zone:
        query = query.where(Cluster.zone == value("zone_id"))
    if by_type:
        query = query.where(Host.hypervisor_type == value("hypervisor_type"))
    for disk, count in enumerate(choices):
        pools = [value(_pool(disk, number)) for number in range(count)]
        reach = Host.id.in_(PoolHost.select(PoolHost.host).where(PoolHost.pool.in_(pools), PoolHost.reachable))
        of_zone = fn.EXISTS(Pool.select(SQL("1")).where(Pool.id.in_(pools), Pool.scope == "zone"))
        query = query.where(reach if reaching else of_zone | reach)
    facts = query.alias("facts")

    def order(of: Select) -> list[ColumnBase]:
        first = [Case(None, ((of.c.id == value("preferred_host_id"), 0),), 1)] if preferred else []
        return [*first, _score(database.is_sqlite()), of.c.id]

    best = Select((facts,), (SQL("facts.*"),)).order_by(*order(facts)).limit(_BEST).alias("best")
    # Which pools a host reaches, after its facts; asked of the best only.
    reached = [
        fn.EXISTS(
            PoolHost.select(SQL("1")).where(
                PoolHost.host == best.c.id, PoolHost.pool == value(_pool(disk, number)), PoolHost.reachable
            )
        )
        for disk, count in enumerate(choices)
        for number in range(count)
    ]
    return Select((best,), (SQL("best.*"), *reached)).order_by(*order(best))


def _columns(usable_memory: ColumnBase) -> list[ColumnBase]:
    usable_cpus = Host.cpus * Cluster.cpu_overcommit
    return [
        Host.id,
        Host.name,
        Host.cluster,
        Cluster.zone,
        Host.hypervisor_type,
        Host.state,
        Host.enabled,
        Cluster.enabled.alias("cluster_enabled"),
        Host.maintenance,
        Host.volume_encryption,
        Host.uefi,
        Host.bridges,
        Cluster.hypervisor_type.alias("cluster_type"),
        Host.template_formats,
        usable_cpus.alias("usable_cpus"),
        usable_memory.alias("usable_memory"),
        usable_cpus - Host.allocated_cpus,
        usable_memory - Host.allocated_memory_bytes,
    ]


# Those of `_columns`, and what is left of CPUs and memory.
_BEFORE_REACH = 20


def _host(row: _Row, pools: frozenset[str], proved: Set[str], headroom: reserve.Headroom | None) -> HostFacts:
    (host_id, name, cluster_id, zone_id, hypervisor_type, state, enabled, cluster_enabled, maintenance) = row[:9]
    (volume_encryption, uefi, bridges, cluster_type, formats) = row[9:14]
    (usable_cpus, usable_memory, free_cpus, free_memory) = row[14:18]
    return HostFacts(
        host_id,
        name,
        cluster_id,
        zone_id,
        hypervisor_type,
        HostState(state),
        bool(enabled and cluster_enabled),
        bool(maintenance),
        bool(volume_encryption),
        bool(uefi),
        _words(bridges),
        math.floor(usable_cpus),
        math.floor(usable_memory),
        math.floor(free_cpus),
        math.floor(free_memory),
        pools,
        cluster_type,
        _words(formats),
        Function.NIC_FILTER in proved,
        Function.TPM in proved,
        Function.SECURE_BOOT in proved,
        headroom,
    )


@functools.lru_cache(maxsize=4096)
def _words(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.split(",")))


def _proved(demand: Demand) -> dict[str, set[str]]:
    """By host what it has proved of the functions that the demand needs and that have no column of their own."""
    needed = {
        Function.NIC_FILTER: demand.nic_filter,
        Function.TPM: demand.tpm,
        Function.SECURE_BOOT: demand.secure_boot,
    }
    wanted = [function for function, is_needed in needed.items() if is_needed]
    return proved_functions.of_hosts(functions=wanted) if wanted else {}


def _reach(demand: Demand) -> dict[str, frozenset[str]]:
    """For each host those of the demand's pools that it reaches."""
    wanted = {pool for choices in demand.pool_choices for pool in choices}
    if not wanted:
        return {}
    query = PoolHost.select(PoolHost.host, PoolHost.pool).where(PoolHost.pool.in_(wanted), PoolHost.reachable)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for host_id, pool_id in tuples(query, tuple[str, str]):
        found[host_id].add(pool_id)
    return {host_id: frozenset(ids) for host_id, ids in found.items()}
