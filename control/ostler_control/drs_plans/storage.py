"""Balancing the storage pools of a zone: a plan out of the database, and moves that are executed as an operation.

Every move is an ordinary `volume.migrate` operation, whose id follows from the operation's and its number; one at a
time, because copies of volumes load pools and network. A process that dies at any line begins no move twice.
"""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ostler_common.errors import AbortedError, FailedPreconditionError, OstlerError, bad_field
from ostler_common.hypervisors import Function
from peewee import JOIN, fn

from ostler_control import settings, volumes
from ostler_control.database import locked, session, transaction
from ostler_control.drs.settings import Settings
from ostler_control.drs.storage import Pool, StoragePlan, Volume, storage_plan
from ostler_control.models import (
    Cluster,
    Host,
    HostState,
    Operation,
    OperationState,
    PoolHost,
    VmState,
    Zone,
    now,
    tuples,
)
from ostler_control.models import Pool as PoolRow
from ostler_control.models import Vm as VmRow
from ostler_control.models import Volume as VolumeRow
from ostler_control.operations import Run, launch, record_operation, workflow
from ostler_control.operations.records import ENDED, error_from_json
from ostler_control.scheduling.stores import holds_volumes
from ostler_control.states import UNFINISHED_OPERATIONS, VolumeState
from ostler_control.volumes.new_volume import required_bytes

VERB = "zone.balance-storage"
MAX_MOVES = 1000
_ASK_S = 0.5


@dataclass(frozen=True)
class StorageMove:
    """A volume and the pool that it is to move to."""

    volume_id: str
    volume_name: str
    pool_id: str


@dataclass(frozen=True)
class StorageInputs:
    """moves: in this order."""

    moves: tuple[StorageMove, ...]


def plan_storage(zone: Zone, time: datetime.datetime | None = None) -> StoragePlan:
    """Which volumes of the zone to move where."""
    pools = _pools(zone)
    return storage_plan(pools, _volumes({pool.id for pool in pools}, time or now()), _settings(zone))


def _settings(zone: Zone) -> Settings:
    at = settings.At(zone_id=zone.id)
    found = settings.drs.of_zone(zone.id)
    return dataclasses.replace(found, imbalance=settings.drs.STORAGE_IMBALANCE.get(at))


def _pools(zone: Zone) -> list[Pool]:
    """The pools of the zone, of its clusters and of their hosts, that have been measured."""
    clusters = Cluster.select(Cluster.id).where(Cluster.zone == zone.id)
    hosts = Host.select(Host.id).where(Host.cluster.in_(clusters), ~Host.removed)
    within = (
        ((PoolRow.scope == "zone") & (PoolRow.scope_id == zone.id))
        | ((PoolRow.scope == "cluster") & PoolRow.scope_id.in_(clusters))
        | ((PoolRow.scope == "host") & PoolRow.scope_id.in_(hosts))
    )
    rows = list(PoolRow.select().where(within, holds_volumes(), PoolRow.capacity_bytes > 0).order_by(PoolRow.name))
    reach: dict[str, set[str]] = {row.id: set() for row in rows}
    query = PoolHost.select(PoolHost.pool, PoolHost.host).join(Host)
    query = query.where(PoolHost.reachable, Host.state == HostState.UP, ~Host.removed)
    for pool_id, host_id in tuples(query, tuple[str, str]):
        if pool_id in reach:
            reach[pool_id].add(host_id)
    return [
        Pool(
            row.id,
            row.name,
            row.type,
            row.capacity_bytes,
            row.available_bytes,
            bool(row.encryption),
            frozenset(reach[row.id]),
        )
        for row in rows
    ]


def _volumes(pool_ids: set[str], time: datetime.datetime) -> list[Volume]:
    within = VolumeRow.pool.in_(sorted(pool_ids))
    rows = list(VolumeRow.select().where(within))
    query = VmRow.select(VmRow, Host).join(Host, JOIN.LEFT_OUTER, on=(VmRow.host == Host.id))
    vms = {vm.id: vm for vm in query.where(VmRow.id.in_(VolumeRow.select(VolumeRow.vm_id).where(within)))}
    moved = _last_moves()
    return [
        Volume(
            row.id,
            row.name,
            row.pool_id,
            row.size_bytes,
            required_bytes(row.provisioning, row.size_bytes),
            encrypted=row.passphrase_id is not None,
            movable=row.state is VolumeState.READY and not row.operation_id and _free(vms.get(row.vm_id)),
            skip=bool(row.vm_id in vms and vms[row.vm_id].drs_skip),
            moved_ago_s=(time - moved[row.id]).total_seconds() if row.id in moved else None,
        )
        for row in rows
    ]


def _free(vm: VmRow | None) -> bool:
    """Whether the VM of a volume is in a state in which that can migrate."""
    if vm is None:
        return True
    if vm.operation_id:
        return False
    if vm.state is VmState.STOPPED:
        return not vm.power_state.is_executing
    if vm.state is not VmState.RUNNING or vm.host is None or vm.host.state is not HostState.UP:
        return False
    return Function.ONLINE_COPY in vm.host.functions.split(",")


def _last_moves() -> dict[str, datetime.datetime]:
    """When each volume was last moved."""
    query = Operation.select(Operation.resource_id, fn.MAX(Operation.end_time)).where(
        Operation.verb == "volume.migrate", Operation.state == OperationState.SUCCEEDED
    )
    return {
        volume_id: datetime.datetime.fromisoformat(end) if isinstance(end, str) else end
        for volume_id, end in tuples(query.group_by(Operation.resource_id), tuple[str, datetime.datetime | str])
    }


def execute_storage(zone: Zone, moves: Sequence[tuple[VolumeRow, PoolRow]], user: str) -> Operation:
    """Records the operation that makes these moves, within the caller's transaction.

    Raises InvalidArgumentError; AbortedError RESOURCE_BUSY while the zone's storage is being balanced.
    """
    if not 0 < len(moves) <= MAX_MOVES:
        raise bad_field("moves", f"must be 1 to {MAX_MOVES} moves")
    known = {pool.id for pool in _pools(zone)}
    seen: set[str] = set()
    for number, (volume, pool) in enumerate(moves):
        if volume.id in seen:
            raise bad_field(f"moves[{number}].volume", f"{volume.name} is listed twice", "DUPLICATE_VOLUME")
        if not {pool.id, volume.pool_id} <= known:
            raise bad_field(f"moves[{number}].pool", f"pools must be of zone {zone.name} and measured", "OTHER_ZONE")
        seen.add(volume.id)
    locked(Zone.select().where(Zone.id == zone.id)).get()  # of two at once, the second sees the first
    mine = (Operation.verb == VERB) & (Operation.resource_id == zone.id)
    if Operation.select().where(mine, Operation.state.in_(UNFINISHED_OPERATIONS)).exists():
        raise AbortedError(f"the storage of zone {zone.name} is being balanced", "RESOURCE_BUSY", {"zone": zone.name})
    inputs = StorageInputs(tuple(StorageMove(volume.id, volume.name, pool.id) for volume, pool in moves))
    return record_operation(VERB, zone, user, inputs)


@workflow(VERB)
def _balance(run: Run) -> None:
    moves = run.read(StorageInputs).moves
    missed = []
    for number, move in enumerate(moves):
        why: str = run.step(f"move-{number}", partial(_move, run, number, move, len(moves)))
        if why:
            missed.append(f"{move.volume_name}: {why}")
    if missed:
        raise FailedPreconditionError(
            f"{len(moves) - len(missed)} of {len(moves)} volumes were moved; first {missed[0]}", "STORAGE_PLAN_PARTIAL"
        )


def _move(run: Run, number: int, move: StorageMove, total: int) -> str:
    """Moves one volume; "" or why it was not moved."""
    run.phase(f"{number} of {total} volumes moved", 100 * number // total)
    operation_id = str(uuid.uuid5(uuid.UUID(run.id), str(number)))
    try:
        with transaction():
            operation = Operation.get_or_none(Operation.id == operation_id)
            if operation is None:
                volume = VolumeRow.get_or_none(VolumeRow.id == move.volume_id)
                pool = PoolRow.get_or_none(PoolRow.id == move.pool_id)
                if volume is None or pool is None:
                    return "it is gone" if volume is None else "the pool is gone"
                operation = volumes.migrate(volume, pool, run.user, run.keys, operation_id=operation_id)
    except OstlerError as error:
        return error.message
    launch(operation)
    while operation.state not in ENDED:
        run.pause(_ASK_S)
        with session():
            operation = Operation.get_by_id(operation_id)
    return error_from_json(operation.error).message if operation.error else ""
