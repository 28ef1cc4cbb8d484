"""Accounts, zones, clusters, offerings and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ostler.control.v1 import account_pb2, event_pb2, hypervisor_pb2, offering_pb2, zone_pb2
from ostler.types.v1 import volume_pb2
from ostler_common.io_limits import to_message

from ostler_control import labels
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.times import timestamp
from ostler_control.caller import Caller
from ostler_control.catalog import disk_io, driver_details, quotas
from ostler_control.catalog.offerings import extra_configs_of
from ostler_control.catalog.sizes import maximums_of_offerings, size_of
from ostler_control.events.verify import Verdict
from ostler_control.hypervisors.listing import Listed
from ostler_control.models import Account, Cluster, DiskOffering, Event, ServiceOffering, Zone


def accounts(rows: Sequence[Account]) -> list[account_pb2.Account]:
    """With what they own and may own."""
    usage = quotas.find_usage([row.id for row in rows])
    own = labels.of_objects(Account, [row.id for row in rows])
    return [
        account_pb2.Account(
            id=row.id,
            name=row.name,
            create_time=timestamp(row.create_time),
            quotas=_quotas(usage[row.id], quotas.find_limits(row.id)),
            labels=own.get(row.id, {}),
        )
        for row in rows
    ]


def account(row: Account) -> account_pb2.Account:
    return accounts([row])[0]


def _quotas(usage: quotas.Resources, limits: Mapping[str, int]) -> list[account_pb2.Account.Quota]:
    return [
        account_pb2.Account.Quota(resource=resource, used=usage.get(resource), limit=limits.get(resource))
        for resource in quotas.RESOURCES
    ]


def zone(row: Zone, own_labels: Mapping[str, str]) -> zone_pb2.Zone:
    return zone_pb2.Zone(id=row.id, name=row.name, create_time=timestamp(row.create_time), labels=own_labels)


def cluster(
    row: Cluster, host_count: int, type_names: Mapping[str, str], own_labels: Mapping[str, str]
) -> zone_pb2.Cluster:
    """type_names: of `hypervisors.rules.names`."""
    return zone_pb2.Cluster(
        id=row.id,
        name=row.name,
        zone_id=row.zone.id,
        zone_name=row.zone.name,
        hypervisor_type=row.hypervisor_type,
        hypervisor_display_name=type_names.get(row.hypervisor_type, row.hypervisor_type),
        cpu_overcommit=row.cpu_overcommit,
        memory_overcommit=row.memory_overcommit,
        enabled=row.enabled,
        host_count=host_count,
        create_time=timestamp(row.create_time),
        labels=own_labels,
    )


def hypervisor_type(row: Listed) -> hypervisor_pb2.HypervisorType:
    formats = sorted(row.type.template_formats)
    return hypervisor_pb2.HypervisorType(
        type=row.type.type,
        display_name=row.type.display_name,
        template_formats=[to_enum(volume_pb2.DiskFormat, "DISK_FORMAT_", word) for word in formats],
        functions=sorted(row.type.functions),
        pool_types=sorted(row.pool_types),
        host_count=row.host_count,
        up_count=row.up_count,
        cluster_count=row.cluster_count,
        allowed=row.allowed,
        conflicts=row.conflicts,
        partial_functions=sorted(row.partial_functions),
    )


def service_offerings(rows: Sequence[ServiceOffering], caller: Caller) -> list[offering_pb2.ServiceOffering]:
    """Members do not see what extra configuration and details tell of the hosts."""
    configs = extra_configs_of([row.id for row in rows]) if caller.is_admin else {}
    details = driver_details.of_offerings([row.id for row in rows]) if caller.is_admin else {}
    maximums = maximums_of_offerings([row.id for row in rows])
    own = labels.of_objects(ServiceOffering, [row.id for row in rows])
    return [
        offering_pb2.ServiceOffering(
            id=row.id,
            name=row.name,
            cpus=row.cpus,
            memory_bytes=row.memory_bytes,
            encrypt_root=row.encrypt_root,
            create_time=timestamp(row.create_time),
            extra_configs=configs.get(row.id, {}),
            details=details.get(row.id, {}),
            max_cpus=maximums.get(row.id, size_of(row)).cpus,
            max_memory_bytes=maximums.get(row.id, size_of(row)).memory_bytes,
            labels=own.get(row.id, {}),
        )
        for row in rows
    ]


def disk_offerings(rows: Sequence[DiskOffering]) -> list[offering_pb2.DiskOffering]:
    found = disk_io.of_offerings([row.id for row in rows])
    own = labels.of_objects(DiskOffering, [row.id for row in rows])
    return [_disk_offering(row, found.get(row.id, disk_io.DEFAULT), own.get(row.id, {})) for row in rows]


def _disk_offering(row: DiskOffering, io: disk_io.DiskIo, own_labels: Mapping[str, str]) -> offering_pb2.DiskOffering:
    return offering_pb2.DiskOffering(
        id=row.id,
        name=row.name,
        size_bytes=row.size_bytes,
        encrypt=row.encrypt,
        provisioning=to_enum(volume_pb2.Provisioning, "PROVISIONING_", row.provisioning),
        format=to_enum(volume_pb2.DiskFormat, "DISK_FORMAT_", row.format),
        create_time=timestamp(row.create_time),
        limits=to_message(io.limits) if io.limits else None,
        ignore_discard=io.ignore_discard,
        labels=own_labels,
    )


def event(row: Event) -> event_pb2.Event:
    return event_pb2.Event(
        id=row.id,
        time=timestamp(row.create_time),
        type=row.type,
        outcome=to_enum(event_pb2.Event.Outcome, "", row.outcome),
        actor=row.actor,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        resource_name=row.resource_name,
        message=row.message,
        operation_id=row.operation_id,
        sequence=row.sequence or 0,
        digest=row.digest or "",
    )


def verdict(found: Verdict) -> event_pb2.VerifyEventsResponse:
    message = event_pb2.VerifyEventsResponse(
        checked_count=found.checked_count,
        first_sequence=found.start.sequence + 1 if found.checked_count else 0,
        last_sequence=found.end.sequence,
        last_digest=found.end.digest,
    )
    if broken := found.first_break:
        reason = to_enum(event_pb2.VerifyEventsResponse.Break.Reason, "", broken.reason)
        message.first_break.reason, message.first_break.sequence = reason, broken.sequence
        message.first_break.event_id, message.first_break.message = broken.event_id, broken.message
    return message
