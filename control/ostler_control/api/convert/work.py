"""Templates, volumes, VMs and operations. Lists look the names beside their rows up once, not once a row."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.message import Message
from ostler.control.v1 import drs_pb2, operation_pb2, snapshot_pb2, template_pb2, vm_pb2, volume_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2
from ostler_common.errors import to_status

from ostler_control.api.convert import drs, keys, userdata
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.times import timestamp
from ostler_control.api.redact import Conceal, concealed, concealer
from ostler_control.caller import Caller
from ostler_control.hypervisors import rules
from ostler_control.models import (
    Account,
    BaseModel,
    Cluster,
    DiskOffering,
    DrsPlan,
    Host,
    Nic,
    Pool,
    ServiceOffering,
    Snapshot,
    Template,
    Vm,
    VmOrigin,
    Volume,
)
from ostler_control.operations.records import error_from_json
from ostler_control.placement import Candidate
from ostler_control.scheduling import affinity
from ostler_control.userdata import addressing, template_link
from ostler_control.userdata.seed import DHCP
from ostler_control.vms import details

OPERATION_PREFIX = "operations/"
_State = operation_pb2.OperationMetadata


def templates(rows: Sequence[Any]) -> list[template_pb2.Template]:
    names = rules.names()
    links = template_link.of_templates(row.id for row in rows)
    return [
        template_pb2.Template(
            id=row.id,
            name=row.name,
            format=to_enum(types_volume_pb2.DiskFormat, "DISK_FORMAT_", row.format),
            virtual_size_bytes=row.virtual_size_bytes,
            file_size_bytes=row.file_size_bytes,
            sha256=row.sha256,
            sha512=row.sha512,
            url=row.url,
            firmware=to_enum(types_vm_pb2.Firmware, "FIRMWARE_", row.firmware),
            create_time=timestamp(row.create_time),
            encrypted=row.passphrase_id is not None,
            hypervisor_type=row.hypervisor_type,
            hypervisor_display_name=names.get(row.hypervisor_type, row.hypervisor_type),
            user_data_name=links[row.id].user_data.name if row.id in links else "",
            user_data_policy=userdata.to_policy(links[row.id].policy if row.id in links else ""),
        )
        for row in rows
    ]


def template(row: Template) -> template_pb2.Template:
    return templates([row])[0]


def _by_id(model: type[BaseModel], ids: Iterable[str | None]) -> dict[str | None, Any]:
    """The rows with these ids."""
    wanted = {row_id for row_id in ids if row_id}
    if not wanted:
        return {}
    return {row.id: row for row in model.select().where(model.id.in_(wanted))}


def _name(rows: dict[str | None, Any], row_id: str | None) -> str:
    row = rows.get(row_id)
    return row.name if row else ""


def volumes(rows: Sequence[Any], caller: Caller) -> list[volume_pb2.Volume]:
    accounts = _by_id(Account, (row.account_id for row in rows))
    pools = _by_id(Pool, (row.pool_id for row in rows))
    offerings = _by_id(DiskOffering, (row.disk_offering_id for row in rows))
    vms = _by_id(Vm, (row.vm_id for row in rows))
    shown = _shown_to(caller)
    return [
        volume_pb2.Volume(
            id=row.id,
            name=row.name,
            account_id=row.account_id,
            account_name=_name(accounts, row.account_id),
            state=to_enum(volume_pb2.Volume.State, "", row.state),
            pool_id=row.pool_id,
            pool_name=_name(pools, row.pool_id),
            disk_offering_name=_name(offerings, row.disk_offering_id),
            size_bytes=row.size_bytes,
            format=to_enum(types_volume_pb2.DiskFormat, "DISK_FORMAT_", row.format),
            encrypt_format=to_enum(types_volume_pb2.EncryptFormat, "ENCRYPT_FORMAT_", row.encrypt_format),
            provisioning=to_enum(types_volume_pb2.Provisioning, "PROVISIONING_", row.provisioning),
            root=row.root,
            vm_id=row.vm_id,
            vm_name=_name(vms, row.vm_id),
            slot=row.slot,
            state_reason=shown(row.state_reason),
            create_time=timestamp(row.create_time),
            path=_path(pools[row.pool_id], row.file_id) if caller.is_admin else "",
        )
        for row in rows
    ]


def _path(pool: Any, file_id: str) -> str:
    return f"{pool.path.rstrip('/')}/{file_id}" if pool.path else ""


def volume(row: Any, caller: Caller) -> volume_pb2.Volume:
    return volumes([row], caller)[0]


def snapshots(rows: Sequence[Any], caller: Caller) -> list[snapshot_pb2.Snapshot]:
    accounts = _by_id(Account, (row.account_id for row in rows))
    pools = _by_id(Pool, (row.pool_id for row in rows))
    volumes = _by_id(Volume, (row.volume_id for row in rows))
    shown = _shown_to(caller)
    return [
        snapshot_pb2.Snapshot(
            id=row.id,
            name=row.name,
            account_id=row.account_id,
            account_name=_name(accounts, row.account_id),
            state=to_enum(snapshot_pb2.Snapshot.State, "", row.state),
            state_reason=shown(row.state_reason),
            volume_id=row.volume_id,
            volume_name=_name(volumes, row.volume_id),
            pool_id=row.pool_id,
            pool_name=_name(pools, row.pool_id),
            size_bytes=row.size_bytes,
            format=to_enum(types_volume_pb2.DiskFormat, "DISK_FORMAT_", row.format),
            encrypt_format=to_enum(types_volume_pb2.EncryptFormat, "ENCRYPT_FORMAT_", row.encrypt_format),
            schedule_id=row.schedule_id,
            online=row.online,
            create_time=timestamp(row.create_time),
        )
        for row in rows
    ]


def snapshot(row: Any, caller: Caller) -> snapshot_pb2.Snapshot:
    return snapshots([row], caller)[0]


def snapshot_schedules(rows: Sequence[Any], caller: Caller) -> list[snapshot_pb2.SnapshotSchedule]:
    volumes = _by_id(Volume, (row.volume_id for row in rows))
    shown = _shown_to(caller)
    return [
        snapshot_pb2.SnapshotSchedule(
            id=row.id,
            volume_id=row.volume_id,
            volume_name=_name(volumes, row.volume_id),
            interval=to_enum(snapshot_pb2.SnapshotSchedule.Interval, "", row.interval),
            minute=row.minute,
            hour=row.hour,
            day=row.day,
            keep=row.keep,
            next_time=timestamp(row.next_time),
            last_error=shown(row.last_error),
        )
        for row in rows
    ]


def vms(rows: Sequence[Any], caller: Caller) -> list[vm_pb2.Vm]:
    ids = [row.id for row in rows]
    accounts = _by_id(Account, (row.account_id for row in rows))
    offerings = _by_id(ServiceOffering, (row.service_offering_id for row in rows))
    hosts = _by_id(Host, (row.host_id or row.last_host_id for row in rows))
    clusters = _by_id(Cluster, (host.cluster_id for host in hosts.values()))
    disks: defaultdict[str, list[Any]] = defaultdict(list)
    attached: Any = Volume.select().where(Volume.vm_id.in_(ids)).order_by(Volume.slot)
    for disk in attached:
        disks[disk.vm_id].append(disk)
    pools = _by_id(Pool, (disk.pool_id for disk in attached))
    groups = affinity.groups_of(ids)
    vm_details = details.of_vms(ids)
    origins = {row.vm_id: row for row in VmOrigin.select().where(VmOrigin.vm.in_(ids))}
    nics: defaultdict[str, list[vm_pb2.VmNic]] = defaultdict(list)
    interfaces: Any = Nic.select().where(Nic.vm.in_(ids)).order_by(Nic.position)
    static = addressing.of_nics(nic.id for nic in interfaces)
    for nic in interfaces:
        own = static.get(nic.id, DHCP)
        nics[nic.vm_id].append(
            vm_pb2.VmNic(
                mac=nic.mac,
                bridge=nic.bridge,
                model=nic.model,
                addresses=own.addresses,
                gateways=own.gateways,
                nameservers=own.nameservers,
            )
        )

    shown, type_names = _shown_to(caller), rules.names()

    def one(row: Any) -> vm_pb2.Vm:
        host = hosts.get(row.host_id or row.last_host_id)
        origin = origins.get(row.id)
        return vm_pb2.Vm(
            id=row.id,
            name=row.name,
            account_id=row.account_id,
            account_name=_name(accounts, row.account_id),
            state=to_enum(vm_pb2.Vm.State, "", row.state),
            power_state=to_enum(types_vm_pb2.PowerState, "POWER_STATE_", row.power_state),
            attention=shown(row.attention),
            service_offering_name=_name(offerings, row.service_offering_id),
            cpus=row.cpus,
            memory_bytes=row.memory_bytes,
            firmware=to_enum(types_vm_pb2.Firmware, "FIRMWARE_", row.firmware),
            template_name=row.template_name,
            host_id=host.id if host and caller.is_admin else "",
            host_name=host.name if host and caller.is_admin else "",
            cluster_name=_name(clusters, host.cluster_id) if host else "",
            volumes=[_vm_volume(disk, pools) for disk in disks[row.id]],
            nics=nics[row.id],
            create_time=timestamp(row.create_time),
            state_time=timestamp(row.state_time),
            drs_skip=row.drs_skip,
            affinity_groups=[group.name for group in groups.get(row.id, ())],
            hypervisor_type=row.hypervisor_type,
            hypervisor_display_name=type_names.get(row.hypervisor_type, row.hypervisor_type),
            details=vm_details.get(row.id, {}),
            guest_os=origin.guest_os if origin else "",
            imported_from=_imported_from(origin) if origin and caller.is_admin else "",
        )

    return [one(row) for row in rows]


def _imported_from(origin: VmOrigin) -> str:
    return f"{origin.source_vm} ({origin.source_ref}) on {origin.source_name}"


def _vm_volume(row: Any, pools: dict[str | None, Any]) -> vm_pb2.VmVolume:
    return vm_pb2.VmVolume(
        volume_id=row.id,
        volume_name=row.name,
        slot=row.slot,
        size_bytes=row.size_bytes,
        encrypted=row.passphrase_id is not None,
        pool_name=_name(pools, row.pool_id),
    )


def vm(row: Any, caller: Caller) -> vm_pb2.Vm:
    return vms([row], caller)[0]


def candidate(found: Candidate) -> vm_pb2.FindHostsResponse.Candidate:
    return vm_pb2.FindHostsResponse.Candidate(
        host_id=found.host_id,
        host_name=found.host_name,
        fits=found.refusal is None,
        refusal=found.refusal.code if found.refusal else "",
        explanation=found.refusal.explanation if found.refusal else "",
        score=found.score,
    )


def operations(rows: Iterable[Any], caller: Caller) -> list[operations_pb2.Operation]:
    shown = _shown_to(caller)
    return [_operation(row, caller, shown) for row in rows]


def operation(row: Any, caller: Caller) -> operations_pb2.Operation:
    return operations([row], caller)[0]


def _operation(row: Any, caller: Caller, shown: Conceal) -> operations_pb2.Operation:
    metadata = operation_pb2.OperationMetadata(
        verb=row.verb,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        resource_name=row.resource_name,
        state=to_enum(_State.State, "", row.state),
        user=row.user,
        create_time=timestamp(row.create_time),
        end_time=timestamp(row.end_time),
        cancel_requested=row.cancel_requested,
    )
    metadata.progress.phase = shown(row.phase)
    metadata.progress.bytes_done = row.bytes_done
    metadata.progress.bytes_total = row.bytes_total
    metadata.progress.percent = row.percent
    message = operations_pb2.Operation(name=OPERATION_PREFIX + row.id)
    message.metadata.Pack(metadata)
    message.done = row.state in ("succeeded", "failed", "cancelled")
    if row.error:
        error = error_from_json(row.error)
        message.error.CopyFrom(to_status(error if caller.is_admin else concealed(error, shown)))
    elif message.done:
        message.response.Pack(_response(row, caller))
    return message


def validated(row: Any, caller: Caller) -> operations_pb2.Operation:
    """The answer to validate_only: done, without a response, because nothing was done. An admin is told the host."""
    inputs = json.loads(row.inputs)
    host = Host.get_or_none(Host.id == inputs.get("destination_id", inputs.get("host_id", "")))
    row.state, row.percent = "succeeded", 100
    row.phase = f"on host {host.name}" if host and caller.is_admin else ""
    message = operation(row, caller)
    message.ClearField("name")
    message.ClearField("response")
    message.done = True
    return message


def _response(row: Any, caller: Caller) -> Message:
    """The object as it is now; what is left to say of one that is gone."""
    if row.resource_type == "volume":
        found: Any = Volume.get_or_none(Volume.id == row.resource_id)
        if found is not None:
            return volume(found, caller)
        return volume_pb2.Volume(id=row.resource_id, name=row.resource_name, state=volume_pb2.Volume.DELETING, slot=-1)
    if row.resource_type == "snapshot":
        found = Snapshot.get_or_none(Snapshot.id == row.resource_id)
        if found is not None:
            return snapshot(found, caller)
        gone = snapshot_pb2.Snapshot.DELETING
        return snapshot_pb2.Snapshot(id=row.resource_id, name=row.resource_name, state=gone)
    if row.resource_type == "template":
        found = Template.get_or_none(Template.id == row.resource_id)
        return template(found) if found is not None else template_pb2.Template(name=row.resource_name)
    if row.resource_type == "drs":
        plan: Any = DrsPlan.get_or_none(DrsPlan.id == row.resource_id)
        return drs.plan(plan) if plan is not None else drs_pb2.DrsPlan(id=row.resource_id, name=row.resource_name)
    if row.resource_type == "key":
        return keys.key_after(row.resource_id)
    found = Vm.get_or_none(Vm.id == row.resource_id)
    if found is not None:
        return vm(found, caller)
    return vm_pb2.Vm(id=row.resource_id, name=row.resource_name, state=vm_pb2.Vm.DELETING)


def _shown_to(caller: Caller) -> Conceal:
    return (lambda text: text) if caller.is_admin else concealer()
