"""Gathers what a preflight looks at: the VM from its source, the rest from the database."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import json_format
from ostler.types.v1 import host_pb2
from ostler_common.errors import FailedPreconditionError, NotFoundError, bad_field
from ostler_common.hypervisors import Function
from peewee import fn

from ostler_control.hosts.choose import load_of
from ostler_control.hypervisors import registry, rules
from ostler_control.imports.conversion_hosts import HostFacts
from ostler_control.imports.disks import DiskPlan, plan_disks
from ostler_control.imports.mapping import wants_secure_boot
from ostler_control.imports.preflight import Facts, Report, TargetPool, check
from ostler_control.imports.staging import PoolFacts
from ostler_control.imports.wanted import Wanted
from ostler_control.models import Cluster, Host, Nic, Pool, PoolHost, Vm, VmImport, new_id, tuples
from ostler_control.networks.needs import needs
from ostler_control.placement import Demand, Placement
from ostler_control.scheduling import placement_query
from ostler_control.scheduling.stores import holds_volumes
from ostler_control.vmware.connection import Connection
from ostler_control.vmware.inventory import SourceVm
from ostler_control.vmware.read_inventory import list_vms, read_vm

_REF = re.compile(r"(vm-)?[0-9]{1,12}", re.ASCII)


def find_vm(connection: Connection, text: str) -> SourceVm:
    """A VM of a source by its ref or its name.

    Raises NotFoundError SOURCE_VM_NOT_FOUND, FailedPreconditionError AMBIGUOUS_NAME.
    """
    if not text:
        raise bad_field("spec.source_vm", "is required: a ref or a name", "REQUIRED")
    if _REF.fullmatch(text):
        try:
            return read_vm(connection, text)
        except NotFoundError:
            pass  # it may be a name after all
    found = [vm for vm in list_vms(connection) if vm.name == text]
    if not found:
        raise NotFoundError(f'there is no VM "{text}" on {connection.server.name}', "SOURCE_VM_NOT_FOUND")
    if len(found) > 1:
        raise FailedPreconditionError(
            f'more than one VM on {connection.server.name} is named "{text}": say which by ref'
            f" ({', '.join(vm.ref for vm in found[:20])})",
            "AMBIGUOUS_NAME",
        )
    return found[0]


@dataclass(frozen=True)
class Preflight:
    """A preflight's report, where the VM would go, and what its disks would be."""

    report: Report
    demand: Demand
    placement: Placement | None
    disks: tuple[DiskPlan, ...]


def preflight(wanted: Wanted, vm: SourceVm, is_vcenter: bool) -> Preflight:
    """Checks an import: within a session. Raises InvalidArgumentError for a request that makes no sense."""
    disks = plan_disks(wanted, vm)
    demand, refusal = _demand(wanted, vm, disks)
    placement: Placement | None = None
    if demand.pool_choices and not refusal:
        try:
            demand, placement = _find(demand)
        except FailedPreconditionError as error:
            refusal = error.message
    home = Host.get_by_id(placement.host_id) if placement else wanted.host
    cluster = home.cluster if home else wanted.cluster
    zone_id = cluster.zone_id if cluster else wanted.zone.id if wanted.zone else ""
    pool_ids = set(placement.pool_ids) if placement else set()
    candidates = _destinations(wanted)
    facts = Facts(
        vm=vm,
        is_vcenter=is_vcenter,
        shutdown=wanted.shutdown,
        warm=wanted.warm,
        kvm=wanted.is_kvm,
        passphrases=frozenset(key for key, choice in wanted.disks.items() if choice.passphrase is not None),
        bridges={name: network.bridge for name, network in wanted.networks.items()},
        taken_macs=_taken_macs(vm),
        fleet_bridges=frozenset(bridge for host in candidates for bridge in registry.split(host.bridges)),
        uefi_host=any(host.uefi for host in candidates),
        secure_boot_host=demand.secure_boot,
        tpm=wanted.tpm,
        offering_cpus=wanted.offering.cpus,
        offering_memory_bytes=wanted.offering.memory_bytes,
        hosts=_conversion_hosts(zone_id, pool_ids),
        cluster_id=cluster.id if cluster else "",
        wanted_host_id=wanted.conversion_host.id if wanted.conversion_host else "",
        pools=_staging_pools(cluster.id if cluster else "", zone_id, wanted.staging_pool),
        wanted_pool_id=wanted.staging_pool.id if wanted.staging_pool else "",
        targets=_targets(disks, placement),
        placement_refusal=refusal,
    )
    return Preflight(check(facts), demand, placement, disks)


def _find(demand: Demand) -> tuple[Demand, Placement]:
    """Where the VM goes: to a host with secure boot if it has it at its source, and without it where none has room."""
    if demand.secure_boot:
        with contextlib.suppress(FailedPreconditionError):
            return demand, placement_query.find(demand)
    demand = dataclasses.replace(demand, secure_boot=False)
    return demand, placement_query.find(demand)


def _demand(wanted: Wanted, vm: SourceVm, disks: Sequence[DiskPlan]) -> tuple[Demand, str]:
    """What placement is asked, and why no pool would do, "" when one does."""
    zone_id = wanted.zone.id if wanted.zone else ""
    cluster_id = wanted.cluster.id if wanted.cluster else ""
    refusal = ""
    choices: list[tuple[str, ...]] = []
    for plan in disks:
        try:
            choices.append(
                placement_query.pools_for(
                    plan.disk.label,
                    plan.needed_bytes,
                    plan.encrypted,
                    pool_id=plan.pool.id if plan.pool else "",
                    zone_id=zone_id,
                    cluster_id=cluster_id,
                )
            )
        except FailedPreconditionError as error:
            refusal = refusal or error.message
    network_needs = needs(wanted.networks[nic.network] for nic in vm.nics if nic.network in wanted.networks)
    demand = Demand(
        name=vm.name,
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        volume_encryption=any(plan.encrypted for plan in disks),
        uefi=vm.firmware == "efi",
        secure_boot=wants_secure_boot(vm),
        tpm=wanted.tpm,
        allowed_types=_types(),
        formats=frozenset(plan.format for plan in disks),
        host_id=wanted.host.id if wanted.host else "",
        bridges=network_needs.bridges,
        network_zones=network_needs.network_zones,
        nic_filter=network_needs.nic_filter,
        pool_choices=tuple(choices),
        zone_id=zone_id,
        cluster_id=cluster_id,
    )
    return demand, refusal


def _types() -> frozenset[str]:
    """Types of hypervisor that converted guests run on, of those that may be used."""
    rows = tuples(Host.select(Host.hypervisor_type, Host.functions).where(~Host.removed), tuple[str, str])
    able = {kind for kind, functions in rows if Function.INSTANCE_CONVERSION in registry.split(functions)}
    allowed = rules.allowed()
    return frozenset(able & allowed if allowed else able)


def _destinations(wanted: Wanted) -> list[Host]:
    query = Host.select().join(Cluster).where(~Host.removed)
    if wanted.host:
        query = query.where(Host.id == wanted.host.id)
    if wanted.cluster:
        query = query.where(Cluster.id == wanted.cluster.id)
    if wanted.zone:
        query = query.where(Cluster.zone == wanted.zone.id)
    return list(query)


def _taken_macs(vm: SourceVm) -> frozenset[str]:
    macs = [nic.mac for nic in vm.nics]
    return frozenset(mac for (mac,) in tuples(Nic.select(Nic.mac).where(Nic.mac.in_(macs)), tuple[str]))


def _conversion_hosts(zone_id: str, pool_ids: set[str]) -> list[HostFacts]:
    """The hosts of the zone, or of all; those that do not reach the volumes' pools say so."""
    query = Host.select(Host, Cluster).join(Cluster).where(~Host.removed).order_by(Host.name)
    if zone_id:
        query = query.where(Cluster.zone == zone_id)
    count = VmImport.select(VmImport.host_id, fn.COUNT(VmImport.id)).group_by(VmImport.host_id)
    busy = dict(tuples(count, tuple[str, int]))
    reach = _reach(pool_ids)
    return [_conversion_host(host, busy.get(host.id, 0), pool_ids <= reach.get(host.id, set())) for host in query]


def _conversion_host(host: Host, conversions: int, reaches_pools: bool) -> HostFacts:
    capabilities = json_format.Parse(host.capabilities or "{}", host_pb2.Capabilities(), ignore_unknown_fields=True)
    failed = {probe.name: probe.reason for probe in capabilities.probes if not probe.ok}
    return HostFacts(
        id=host.id,
        name=host.name,
        cluster_id=host.cluster_id,
        up=host.state == "up" and host.enabled and not host.maintenance,
        can_convert=Function.INSTANCE_CONVERSION in registry.split(host.functions) and capabilities.instance_conversion,
        failed_probes=failed,
        reaches_pools=reaches_pools,
        has_ovftool=any(probe.name == "ovftool" and probe.ok for probe in capabilities.probes),
        conversions=conversions,
        cpu_load=load_of(host),
    )


def _reach(pool_ids: set[str]) -> dict[str, set[str]]:
    """For each host the pools of these that it reaches."""
    query = PoolHost.select(PoolHost.host, PoolHost.pool).where(PoolHost.pool.in_(list(pool_ids)), PoolHost.reachable)
    found: dict[str, set[str]] = {}
    for host_id, pool_id in tuples(query, tuple[str, str]):
        found.setdefault(host_id, set()).add(pool_id)
    return found


def _staging_pools(cluster_id: str, zone_id: str, wanted: Pool | None) -> list[PoolFacts]:
    """Pools of the destination's cluster and zone, and the one that was named, so that its refusal is told."""
    here = Pool.scope_id.in_([cluster_id, zone_id]) if cluster_id or zone_id else Pool.scope != "host"
    named = (Pool.id == wanted.id) if wanted else here
    claims = dict(
        tuples(VmImport.select(VmImport.pool, fn.SUM(VmImport.claimed_bytes)).group_by(VmImport.pool), tuple[str, int])
    )
    rows = list(Pool.select().where(here | named, holds_volumes()))
    reach = _reach({row.id for row in rows})
    return [
        PoolFacts(
            id=row.id,
            name=row.name,
            type=row.type,
            scope=row.scope,
            free_bytes=row.available_bytes - int(claims.get(row.id) or 0),
            host_ids=frozenset(host_id for host_id, reached in reach.items() if row.id in reached),
        )
        for row in rows
    ]


def _targets(disks: Sequence[DiskPlan], placement: Placement | None) -> Sequence[TargetPool]:
    if placement is None:
        return ()
    needed: dict[str, int] = {}
    for plan, pool_id in zip(disks, placement.pool_ids, strict=True):
        needed[pool_id] = needed.get(pool_id, 0) + plan.needed_bytes
    pools = {row.id: row for row in Pool.select().where(Pool.id.in_(list(needed)))}
    return [TargetPool(pools[key].name, pools[key].available_bytes, size_bytes) for key, size_bytes in needed.items()]


def name_of(wanted: Wanted, vm: SourceVm) -> str:
    """The new VM's name: as wanted, else the source's with what a name may not have made dashes."""
    if wanted.name:
        return wanted.name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", vm.name).strip("-._")[:63]
    return plain or f"imported-{new_id()[:8]}"


def vm_exists(wanted: Wanted, name: str) -> bool:
    """Whether the account has a VM of that name."""
    return bool(Vm.select().where((Vm.account == wanted.account) & (Vm.name == name)).exists())
