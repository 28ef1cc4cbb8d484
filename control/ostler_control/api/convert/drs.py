"""DRS plans, the state of clusters, and affinity groups."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ostler.control.v1 import affinity_pb2, drs_pb2

from ostler_control import labels, settings
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.times import timestamp
from ostler_control.caller import Caller
from ostler_control.drs import Move
from ostler_control.drs.algorithms import Installed
from ostler_control.drs.power import PowerChange, PowerPlan
from ostler_control.drs.storage import StoragePlan
from ostler_control.drs_plans import store
from ostler_control.drs_plans.status import Status
from ostler_control.models import Account, AffinityGroup, Cluster, DrsMove, DrsPlan, Host, Vm, Zone, tuples
from ostler_control.scheduling import affinity

OPERATION_PREFIX = "operations/"
_MAX_LEFT = 500
# Any: a part of the planner's report, as plain data.
Report = dict[str, Any]


def plan(row: DrsPlan) -> drs_pb2.DrsPlan:
    """A plan with what led to it."""
    message = plans([row])[0]
    report = json.loads(row.report)
    message.hosts.extend(_share(load) for load in report.get("hosts", ()))
    message.left_vms.extend(drs_pb2.LeftOut(**left) for left in report.get("left_vms", ()))
    message.left_hosts.extend(drs_pb2.LeftOut(**left) for left in report.get("left_hosts", ()))
    message.left_counts.update(report.get("left_counts", {}))
    message.refused.update(report.get("refused", {}))
    message.broken_before.extend(_broken(rule) for rule in report.get("broken_before", ()))
    message.broken_after.extend(_broken(rule) for rule in report.get("broken_after", ()))
    return message


def plans(rows: Sequence[DrsPlan]) -> list[drs_pb2.DrsPlan]:
    """Plans as lists show them."""
    moves = store.moves_of_all([row.id for row in rows])
    clusters = _names(Cluster, {row.cluster_id for row in rows})
    hosts = _names(Host, {row.host_id for row in rows})
    return [
        drs_pb2.DrsPlan(
            id=row.id,
            name=row.name,
            cluster_id=row.cluster_id,
            cluster_name=clusters.get(row.cluster_id, ""),
            type=to_enum(drs_pb2.DrsPlan.Type, "", row.type),
            mode=to_enum(drs_pb2.DrsPlan.Mode, "", row.mode),
            state=to_enum(drs_pb2.DrsPlan.State, "", row.state),
            state_time=timestamp(row.state_time),
            user=row.user,
            algorithm=row.algorithm,
            explanation=row.explanation,
            outcome=row.outcome,
            imbalance_before=row.imbalance_before,
            imbalance_after=row.imbalance_after,
            moves=map(_move, moves[row.id]),
            host_id=row.host_id,
            host_name=hosts.get(row.host_id, ""),
            operation=_operation(row.operation_id),
            create_time=timestamp(row.create_time),
        )
        for row in rows
    ]


def _names(model: type[Account | Cluster | Host], ids: set[str]) -> dict[str, str]:
    query = model.select(model.id, model.name).where(model.id.in_(list(ids)))
    return dict(tuples(query, tuple[str, str]))


def _operation(operation_id: str) -> str:
    return OPERATION_PREFIX + operation_id if operation_id else ""


def _move(row: DrsMove) -> drs_pb2.DrsMove:
    considered = [
        drs_pb2.DrsMove.Considered(
            vm_name=other["vm_name"],
            destination_name=other["destination_name"],
            gain=other["gain"],
            cost=other["cost"],
        )
        for other in json.loads(row.considered)
    ]
    return drs_pb2.DrsMove(
        position=row.position + 1,
        vm_id=row.vm_id,
        vm_name=row.vm_name,
        source_id=row.source_id,
        source_name=row.source_name,
        destination_id=row.destination_id,
        destination_name=row.destination_name,
        state=to_enum(drs_pb2.DrsMove.State, "", row.state),
        state_reason=row.state_reason,
        reason=row.reason,
        gain=row.gain,
        cost=row.cost,
        cost_bytes=row.cost_bytes,
        imbalance_before=row.imbalance_before,
        imbalance_after=row.imbalance_after,
        storage_motion=row.storage_motion,
        considered=considered,
        operation=_operation(row.operation_id),
        end_time=timestamp(row.end_time),
    )


def _share(load: Report) -> drs_pb2.HostShare:
    return drs_pb2.HostShare(host_id=load.pop("id"), host_name=load.pop("name"), **load)


def _broken(rule: Report) -> drs_pb2.BrokenRule:
    return drs_pb2.BrokenRule(**{key: value for key, value in rule.items() if key != "kind"})


def status(cluster: Cluster, found: Status) -> drs_pb2.ClusterStatus:
    return drs_pb2.ClusterStatus(
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        algorithm=found.plan.algorithm,
        metric=found.metric,
        imbalance=found.plan.imbalance_before,
        needs_drs=found.needs_drs,
        explanation=found.explanation,
        hosts=[_share(dataclasses.asdict(load)) for load in found.plan.loads],
        left_hosts=[drs_pb2.LeftOut(**dataclasses.asdict(left)) for left in found.plan.left_hosts],
        broken=[_broken(dataclasses.asdict(rule)) for rule in found.plan.broken_before],
        active_plan=plan(found.active) if found.active is not None else None,
        automatic=found.automatic,
        next_plan_time=timestamp(found.next_plan_time),
    )


def power_plan(cluster: Cluster, found: PowerPlan) -> drs_pb2.PowerPlan:
    """Which hosts to switch."""
    return drs_pb2.PowerPlan(
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        share=found.share,
        share_after=found.share_after,
        explanation=found.explanation,
        switch_off=map(_power_change, found.switch_off),
        switch_on=map(_power_change, found.switch_on),
        moves=[_planned(position, move) for position, move in enumerate(found.moves, 1)],
        automatic=settings.drs.POWER_AUTOMATIC.get(settings.At(cluster_id=cluster.id)),
    )


def _power_change(change: PowerChange) -> drs_pb2.PowerChange:
    return drs_pb2.PowerChange(host_id=change.host_id, host_name=change.host_name, reason=change.reason)


def _planned(position: int, move: Move) -> drs_pb2.DrsMove:
    """A move of a plan that is not kept."""
    return drs_pb2.DrsMove(
        position=position,
        vm_id=move.vm_id,
        vm_name=move.vm_name,
        source_id=move.source_id,
        source_name=move.source_name,
        destination_id=move.destination_id,
        destination_name=move.destination_name,
        state=drs_pb2.DrsMove.PENDING,
        reason=move.reason,
        cost=move.cost,
        cost_bytes=move.cost_bytes,
        imbalance_before=move.imbalance_before,
        imbalance_after=move.imbalance_after,
        storage_motion=move.storage_motion,
    )


def storage_plan(zone: Zone, found: StoragePlan) -> drs_pb2.StoragePlan:
    """Which volumes to move to which pools."""
    return drs_pb2.StoragePlan(
        zone_id=zone.id,
        zone_name=zone.name,
        explanation=found.explanation,
        imbalance_before=found.imbalance_before,
        imbalance_after=found.imbalance_after,
        moves=map(_storage_move, found.moves),
        pools=[drs_pb2.PoolShare(**dataclasses.asdict(share)) for share in found.pools],
        left_volumes=[drs_pb2.LeftOut(**dataclasses.asdict(left)) for left in found.left[:_MAX_LEFT]],
    )


def _storage_move(move: Move) -> drs_pb2.StorageMove:
    return drs_pb2.StorageMove(
        volume_id=move.vm_id,
        volume_name=move.vm_name,
        source_id=move.source_id,
        source_name=move.source_name,
        destination_id=move.destination_id,
        destination_name=move.destination_name,
        cost_bytes=move.cost_bytes,
        reason=move.reason,
        imbalance_before=move.imbalance_before,
        imbalance_after=move.imbalance_after,
    )


def affinity_groups(rows: Sequence[AffinityGroup], caller: Caller) -> list[affinity_pb2.AffinityGroup]:
    members = affinity.members_of([row.id for row in rows])
    named = affinity.hosts_of([row.id for row in rows]) if caller.is_admin else {}
    accounts = _names(Account, {row.account_id for row in rows})
    hosts = _names(Host, {vm.host_id for vms in members.values() for vm in vms if vm.host_id})
    own = labels.of_objects(AffinityGroup, [row.id for row in rows])
    return [
        affinity_pb2.AffinityGroup(
            id=row.id,
            name=row.name,
            account_id=row.account_id,
            account_name=accounts.get(row.account_id, ""),
            kind=to_enum(affinity_pb2.AffinityGroup.Kind, "", row.kind),
            strict=row.strict,
            vms=_members(members.get(row.id, ()), hosts if caller.is_admin else {}),
            create_time=timestamp(row.create_time),
            hosts=[host.name for host in named.get(row.id, ())],
            labels=own.get(row.id, {}),
        )
        for row in rows
    ]


def algorithms(found: Iterable[Installed]) -> list[drs_pb2.Algorithm]:
    """The algorithms that are there."""
    return [drs_pb2.Algorithm(name=one.name, package=one.package, error=one.error) for one in found]


def _members(vms: Iterable[Vm], hosts: Mapping[str, str]) -> list[affinity_pb2.AffinityGroup.Member]:
    return [
        affinity_pb2.AffinityGroup.Member(vm_id=vm.id, vm_name=vm.name, host_name=hosts.get(vm.host_id or "", ""))
        for vm in vms
    ]
