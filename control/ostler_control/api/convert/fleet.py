"""Hosts, pools and users."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence

from google.protobuf import json_format
from ostler.control.v1 import account_pb2, host_pb2, pool_pb2
from ostler.types.v1 import host_pb2 as types_host_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.identity import Kind
from peewee import fn

from ostler_control import labels
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.guards import guard_word
from ostler_control.api.convert.times import timestamp
from ostler_control.hosts import loads
from ostler_control.hypervisors import rules
from ostler_control.models import Cluster, Host, HostGuard, Pool, PoolHost, UnmanagedVm, User, Vm, Volume, Zone, tuples
from ostler_control.trust import certificates


def users(rows: Sequence[User], expire_times: Mapping[str, datetime.datetime]) -> list[account_pb2.User]:
    """expire_times: of `certificates.expire_times(Kind.USER)`."""
    own = labels.of_objects(User, [row.id for row in rows])
    return [
        account_pb2.User(
            id=row.id,
            name=row.name,
            role=to_enum(account_pb2.User.Role, "", row.role),
            account_id=row.account.id,
            account_name=row.account.name,
            create_time=timestamp(row.create_time),
            certificate_expire_time=timestamp(expire_times.get(row.id)),
            labels=own.get(row.id, {}),
        )
        for row in rows
    ]


def hosts(rows: Sequence[Host], *, whole: bool) -> list[host_pb2.Host]:
    """whole: with probes and unmanaged VMs, which lists leave out."""
    ids = [row.id for row in rows]
    clusters = {row.id: row for row in Cluster.select(Cluster, Zone).join(Zone)}
    placed = Vm.select(Vm.host, fn.COUNT(Vm.id)).where(Vm.host.in_(ids)).group_by(Vm.host)
    counts = dict(tuples(placed, tuple[str, int]))
    ends = certificates.expire_times(Kind.HOST)
    strangers: dict[str, list[vm_pb2.VmInfo]] = {}
    if whole:
        for found in UnmanagedVm.select().where(UnmanagedVm.host.in_(ids)).order_by(UnmanagedVm.name):
            strangers.setdefault(found.host_id, []).append(_stranger(found))
    names = rules.names()
    own_labels = labels.of_objects(Host, ids)
    guards = {row.host_id: row for row in HostGuard.select().where(HostGuard.host.in_(ids))}

    def one(row: Host) -> host_pb2.Host:
        unmanaged = strangers.get(row.id, [])
        message = _host(row, clusters[row.cluster_id], counts.get(row.id, 0), ends.get(row.id), unmanaged, whole, names)
        message.labels.update(own_labels.get(row.id, {}))
        message.self_fencing = guard_word(guards.get(row.id))
        return message

    return [one(row) for row in rows]


def _host(
    row: Host,
    cluster: Cluster,
    vm_count: int,
    certificate_end: datetime.datetime | None,
    strangers: list[vm_pb2.VmInfo],
    whole: bool,
    type_names: Mapping[str, str],
) -> host_pb2.Host:
    capabilities = None
    if row.capabilities:
        capabilities = json_format.Parse(row.capabilities, types_host_pb2.Capabilities(), ignore_unknown_fields=True)
        if not whole:
            del capabilities.probes[:]
        capabilities.hypervisor_display_name = type_names.get(row.hypervisor_type, row.hypervisor_type)
    in_maintenance = row.state == "up" and row.maintenance
    return host_pb2.Host(
        id=row.id,
        name=row.name,
        address=row.address,
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        zone_name=cluster.zone.name,
        state=to_enum(host_pb2.Host.State, "", "maintenance" if in_maintenance else row.state),
        state_reason=(row.maintenance_reason if in_maintenance else "") or row.state_reason,
        state_time=timestamp(row.state_time),
        enabled=row.enabled,
        capabilities=capabilities,
        allocated_cpus=row.allocated_cpus,
        allocated_memory_bytes=row.allocated_memory_bytes,
        vm_count=vm_count,
        load=loads.latest(row),
        unmanaged_vms=strangers,
        agent_version=row.agent_version,
        certificate_expire_time=timestamp(certificate_end),
        create_time=timestamp(row.create_time),
    )


def _stranger(row: UnmanagedVm) -> vm_pb2.VmInfo:
    return vm_pb2.VmInfo(
        vm_id=row.vm_uuid,
        name=row.name,
        power_state=to_enum(vm_pb2.PowerState, "POWER_STATE_", row.power_state),
        cpus=row.cpus,
        memory_bytes=row.memory_bytes,
    )


def pools(rows: Sequence[Pool]) -> list[pool_pb2.Pool]:
    ids = [row.id for row in rows]
    sums = Volume.select(Volume.pool, fn.SUM(Volume.size_bytes)).where(Volume.pool.in_(ids)).group_by(Volume.pool)
    provisioned = dict(tuples(sums, tuple[str, int]))
    reaches: dict[str, list[pool_pb2.PoolHost]] = {}
    reached = PoolHost.select(PoolHost.pool, Host.id, Host.name, PoolHost.reachable, PoolHost.reason)
    reached = reached.join(Host).where(PoolHost.pool.in_(ids)).order_by(Host.name)
    for pool_id, host_id, host_name, reachable, reason in tuples(reached, tuple[str, str, str, bool, str]):
        message = pool_pb2.PoolHost(host_id=host_id, host_name=host_name, reachable=reachable, reason=reason)
        reaches.setdefault(pool_id, []).append(message)
    names, own = _scope_names(rows), labels.of_objects(Pool, ids)
    return [
        _pool(
            pool,
            names.get(pool.scope_id, ""),
            provisioned.get(pool.id, 0),
            reaches.get(pool.id, []),
            own.get(pool.id, {}),
        )
        for pool in rows
    ]


def _pool(
    row: Pool,
    scope_name: str,
    provisioned_bytes: int,
    reach: list[pool_pb2.PoolHost],
    own_labels: Mapping[str, str],
) -> pool_pb2.Pool:
    return pool_pb2.Pool(
        id=row.id,
        name=row.name,
        type=row.type,
        scope=to_enum(pool_pb2.Pool.Scope, "", row.scope),
        scope_id=row.scope_id,
        scope_name=scope_name,
        path=row.path,
        source=row.source,
        options=json.loads(row.options),
        shared=row.shared,
        encryption=row.encryption,
        capacity_bytes=row.capacity_bytes,
        available_bytes=row.available_bytes,
        provisioned_bytes=int(provisioned_bytes),
        hosts=reach,
        create_time=timestamp(row.create_time),
        labels=own_labels,
    )


def _scope_names(rows: Sequence[Pool]) -> dict[str, str]:
    names: dict[str, str] = {}
    places: tuple[tuple[type[Host | Cluster | Zone], str], ...] = ((Host, "host"), (Cluster, "cluster"), (Zone, "zone"))
    for model, scope in places:
        ids = {row.scope_id for row in rows if row.scope == scope}
        if ids:
            query = model.select(model.id, model.name).where(model.id.in_(ids))
            names.update(tuples(query, tuple[str, str]))
    return names
