"""VMs, and the hosts that could take one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ostler.control.v1 import vm_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler_common.hypervisors import Function
from peewee import JOIN, ColumnBase, ModelSelect, fn

from ostler_control import labels
from ostler_control.api.convert.enums import to_enum
from ostler_control.api.convert.lookups import shown_to
from ostler_control.api.convert.times import timestamp
from ostler_control.caller import Caller
from ostler_control.catalog.sizes import maximums_of_vms, size_of
from ostler_control.hypervisors import rules
from ostler_control.models import (
    Account,
    AffinityMember,
    Cluster,
    Host,
    Network,
    Nic,
    Pool,
    ServiceOffering,
    Vm,
    VmDescription,
    VmDetail,
    VmIso,
    VmLabel,
    VmMachine,
    VmMaximum,
    VmOrigin,
    VmTpm,
    Volume,
    Zone,
    owners,
    tuples,
)
from ostler_control.placement import Candidate
from ostler_control.prepared import Prepared
from ostler_control.scheduling import affinity
from ostler_control.userdata import addressing
from ostler_control.userdata.seed import DHCP
from ostler_control.vms import descriptions, details, isos, machines
from ostler_control.vms.rows import down_of

# Tables that have rows for few of the VMs.
_FEW = (
    AffinityMember.vm,
    Nic.vm,
    VmDescription.vm,
    VmDetail.vm,
    VmIso.vm,
    VmLabel.object,
    VmMachine.vm,
    VmMaximum.vm,
    VmOrigin.vm,
    VmTpm.vm,
)


class _Names(NamedTuple):
    """What a VM's row names by id; "" for what it has not."""

    account: str
    offering: str
    host_id: str
    host: str
    cluster: str
    zone: str


_NOT_NAMED = _Names("", "", "", "", "", "")


class _Disk(NamedTuple):
    """What a VM shows of its disks."""

    vm_id: str
    id: str
    name: str
    slot: int
    size_bytes: int
    encrypted: bool
    pool: str


def _names_where(condition: ColumnBase) -> ModelSelect[Vm]:
    query = Vm.select(Vm.id, Account.name, ServiceOffering.name, Host.id, Host.name, Cluster.name, Zone.name)
    query = query.join(Account).switch(Vm).join(ServiceOffering).switch(Vm)
    place = Host.id == fn.COALESCE(Vm.host, Vm.last_host)
    query = query.join(Host, JOIN.LEFT_OUTER, on=place).join(Cluster, JOIN.LEFT_OUTER).join(Zone, JOIN.LEFT_OUTER)
    return query.where(condition)


def _disks_where(condition: ColumnBase) -> ModelSelect[Volume]:
    encrypted = Volume.passphrase.is_null(False)
    columns = (Volume.vm_id, Volume.id, Volume.name, Volume.slot, Volume.size_bytes, encrypted, Pool.name)
    return Volume.select(*columns).join(Pool).where(condition).order_by(Volume.slot)


# Of one VM, which most calls are about.
_NAMES = Prepared(lambda value: _names_where(Vm.id == value("vm")))
_DISKS = Prepared(lambda value: _disks_where(Volume.vm_id == value("vm")))


def _names(vm_ids: Sequence[str]) -> dict[str, _Names]:
    """By VM. A VM that has no place has that of its last host."""
    shape = tuple[str | None, ...]
    rows = _NAMES.rows(shape, vm=vm_ids[0]) if len(vm_ids) == 1 else tuples(_names_where(Vm.id.in_(vm_ids)), shape)
    return {row[0] or "": _Names(*(name or "" for name in row[1:])) for row in rows}


def _disks(vm_ids: Sequence[str]) -> dict[str, list[_Disk]]:
    """By VM, in the order of their slots."""
    rows = (
        _DISKS.rows(tuple[str, str, str, int, int, bool, str], vm=vm_ids[0])
        if len(vm_ids) == 1
        else tuples(_disks_where(Volume.vm_id.in_(vm_ids)), tuple[str, str, str, int, int, bool, str])
    )
    found: defaultdict[str, list[_Disk]] = defaultdict(list)
    for row in rows:
        disk = _Disk(*row)
        found[disk.vm_id].append(disk._replace(encrypted=bool(disk.encrypted)))  # SQLite has 0 and 1
    return found


def _origins(vm_ids: Collection[str]) -> list[VmOrigin]:
    return list(VmOrigin.select().where(VmOrigin.vm.in_(vm_ids))) if vm_ids else []


def _interfaces(vm_ids: Collection[str]) -> list[Nic]:
    if not vm_ids:
        return []
    return list(Nic.select(Nic, Network).join(Network).where(Nic.vm.in_(vm_ids)).order_by(Nic.position))


def vms(rows: Sequence[Vm], caller: Caller) -> list[vm_pb2.Vm]:
    ids = [row.id for row in rows]
    names = _names(ids)
    having = owners(*((column, ids) for column in _FEW))
    disks = _disks(ids)
    groups = affinity.groups_of(having[AffinityMember])
    vm_details = details.of_vms(having[VmDetail])
    vm_labels = labels.of_objects(Vm, having[VmLabel])
    texts = descriptions.of_vms(having[VmDescription])
    maximums = maximums_of_vms(having[VmMaximum])
    origins = {row.vm_id: row for row in _origins(having[VmOrigin])}
    cdroms, kept_machines = isos.in_drives(having[VmIso]), machines.of_vms(having[VmMachine])
    nics: defaultdict[str, list[vm_pb2.VmNic]] = defaultdict(list)
    interfaces = _interfaces(having[Nic])
    static = addressing.of_nics([nic.id for nic in interfaces])
    down = down_of([nic.id for nic in interfaces])
    for nic in interfaces:
        own = static.get(nic.id, DHCP)
        nics[nic.vm_id].append(
            vm_pb2.VmNic(
                mac=nic.mac,
                network=nic.network.name,
                model=nic.model,
                addresses=own.addresses,
                gateways=own.gateways,
                nameservers=own.nameservers,
                link_down=nic.id in down,
            )
        )

    shown, types = shown_to(caller), rules.known()
    type_names = {of_type.type: of_type.display_name for of_type in types.values()}

    def one(row: Vm) -> vm_pb2.Vm:
        named = names.get(row.id, _NOT_NAMED)
        origin = origins.get(row.id)
        most = maximums.get(row.id, size_of(row))
        return vm_pb2.Vm(
            id=row.id,
            name=row.name,
            account_id=row.account_id,
            account_name=named.account,
            state=to_enum(vm_pb2.Vm.State, "", row.state),
            power_state=to_enum(types_vm_pb2.PowerState, "POWER_STATE_", row.power_state),
            attention=shown(row.attention),
            service_offering_name=named.offering,
            cpus=row.cpus,
            memory_bytes=row.memory_bytes,
            firmware=to_enum(types_vm_pb2.Firmware, "FIRMWARE_", row.firmware),
            template_name=row.template_name,
            host_id=named.host_id if caller.is_admin else "",
            host_name=named.host if caller.is_admin else "",
            cluster_name=named.cluster,
            zone_name=named.zone,
            volumes=map(_vm_volume, disks.get(row.id, ())),
            nics=nics[row.id],
            machine=kept_machines.get(row.id, ""),
            tpm=row.id in having[VmTpm],
            cdroms=map(_vm_cdrom, cdroms.get(row.id, ())),
            create_time=timestamp(row.create_time),
            state_time=timestamp(row.state_time),
            drs_skip=row.drs_skip,
            live_migration=rules.may_have(Function.LIVE_MIGRATION, types.get(row.hypervisor_type)),
            affinity_groups=[group.name for group in groups.get(row.id, ())],
            hypervisor_type=row.hypervisor_type,
            hypervisor_display_name=type_names.get(row.hypervisor_type, row.hypervisor_type),
            details=vm_details.get(row.id, {}),
            description=texts.get(row.id, ""),
            labels=vm_labels.get(row.id, {}),
            max_cpus=max(most.cpus, row.cpus),
            max_memory_bytes=max(most.memory_bytes, row.memory_bytes),
            guest_os=origin.guest_os if origin else "",
            imported_from=_imported_from(origin) if origin and caller.is_admin else "",
        )

    return [one(row) for row in rows]


def _imported_from(origin: VmOrigin) -> str:
    return f"{origin.source_vm} ({origin.source_ref}) on {origin.source_name}"


def _vm_volume(disk: _Disk) -> vm_pb2.VmVolume:
    return vm_pb2.VmVolume(
        volume_id=disk.id,
        volume_name=disk.name,
        slot=disk.slot,
        size_bytes=disk.size_bytes,
        encrypted=disk.encrypted,
        pool_name=disk.pool,
    )


def _vm_cdrom(row: VmIso) -> vm_pb2.VmCdrom:
    return vm_pb2.VmCdrom(iso_id=row.iso_id, iso_name=row.iso.name, drive=row.drive, boot_first=row.boot_first)


def vm(row: Vm, caller: Caller) -> vm_pb2.Vm:
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
