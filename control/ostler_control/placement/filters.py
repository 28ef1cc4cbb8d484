"""Filters: each answers None for an eligible host, or a named refusal.

Cheap filters on the request come first, then the host's state, then its functions, and capacity last, so that the count
of refusals tells an operator what is missing rather than what happens to be full as well.
"""

from __future__ import annotations

from collections.abc import Callable

from ostler_control.placement.facts import Demand, HostFacts, Refusal
from ostler_control.states import HostState

Filter = Callable[[Demand, HostFacts], Refusal | None]

MIB = 1 << 20


def refusal(demand: Demand, host: HostFacts) -> Refusal | None:
    """The first refusal of any filter; None when the host fits."""
    for filter in FILTERS:
        found = filter(demand, host)
        if found:
            return found
    return None


def _requested(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.host_id and demand.host_id != host.id:
        return Refusal("EXCLUDED_BY_REQUEST", "the request names another host")
    if demand.cluster_id and demand.cluster_id != host.cluster_id:
        return Refusal("EXCLUDED_BY_REQUEST", "the request names another cluster")
    if demand.zone_id and demand.zone_id != host.zone_id:
        return Refusal("EXCLUDED_BY_REQUEST", "the request names another zone")
    if demand.network_zones - {host.zone_id}:
        return Refusal("OTHER_ZONE", "a network of the VM is in another zone")
    return None


def _elsewhere(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.excluded_host_id == host.id:
        return Refusal("ALREADY_THERE", "the VM is on it already")
    return None


def _in_service(demand: Demand, host: HostFacts) -> Refusal | None:
    if host.state is not HostState.UP:
        return Refusal("NOT_UP", f"it is {host.state}")
    if not host.enabled:
        return Refusal("DISABLED", "it or its cluster is disabled")
    if host.maintenance:
        return Refusal("IN_MAINTENANCE", "it is in maintenance")
    return None


def _hypervisor(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.hypervisor_type and demand.hypervisor_type != host.hypervisor_type:
        return Refusal("OTHER_HYPERVISOR_TYPE", f"it runs {host.hypervisor_type}, not {demand.hypervisor_type}")
    if host.cluster_type and host.cluster_type != host.hypervisor_type:
        return Refusal(
            "OTHER_HYPERVISOR_TYPE", f"it runs {host.hypervisor_type}, its cluster is of {host.cluster_type}"
        )
    if demand.allowed_types and host.hypervisor_type not in demand.allowed_types:
        return Refusal("HYPERVISOR_NOT_ALLOWED", f"it runs {host.hypervisor_type}, which hypervisor.list does not have")
    return None


def _cpu(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.cpu_hosts is not None and host.id not in demand.cpu_hosts:
        return Refusal("OTHER_CPU_MODEL", "it cannot give the guest the CPU that it has seen since the VM started")
    return None


def _formats(demand: Demand, host: HostFacts) -> Refusal | None:
    if host.template_formats and not demand.formats <= host.template_formats:
        lacking = ", ".join(sorted(demand.formats - host.template_formats))
        return Refusal("LACKS_FORMAT", f"its hypervisor has no disks of format {lacking}")
    return None


def _volume_encryption(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.volume_encryption and not host.volume_encryption:
        return Refusal("LACKS_VOLUME_ENCRYPTION", "it has not proved that it can open encrypted volumes")
    return None


def _uefi(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.uefi and not host.uefi:
        return Refusal("LACKS_UEFI", "it has no UEFI firmware for guests")
    return None


def _secure_boot(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.secure_boot and not host.secure_boot:
        return Refusal("LACKS_SECURE_BOOT", "it has not proved that it can boot guests with secure boot")
    return None


def _bridges(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.bridges <= host.bridges:
        return None
    return Refusal("LACKS_BRIDGE", f"it has no bridge {', '.join(sorted(demand.bridges - host.bridges))}")


def _nic_filter(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.nic_filter and not host.nic_filter:
        return Refusal("LACKS_NIC_FILTER", "it has not proved that it can filter spoofed frames")
    return None


def _tpm(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.tpm and not host.tpm:
        return Refusal("LACKS_TPM", "it has not proved that it can emulate a TPM")
    return None


def _pools(demand: Demand, host: HostFacts) -> Refusal | None:
    for choices in demand.pool_choices:
        if host.pools.isdisjoint(choices):
            return Refusal("LACKS_POOL", "it does not reach the storage pool of every disk")
    return None


def _affinity(demand: Demand, host: HostFacts) -> Refusal | None:
    rules = demand.affinity
    if rules is None:
        return None
    if host.id in rules.apart:
        return Refusal("ANTI_AFFINITY", "a VM is there that anti-affinity keeps apart")
    if any(host.id not in hosts for hosts in rules.together):
        return Refusal("AFFINITY", "the VMs that affinity keeps together are on another host")
    if any(host.id not in hosts for hosts in rules.required):
        return Refusal("RUN_ON", "it is none of the hosts that the VM must run on")
    if host.id in rules.forbidden:
        return Refusal("NOT_RUN_ON", "it is a host that the VM must not run on")
    return None


def _capacity(demand: Demand, host: HostFacts) -> Refusal | None:
    if demand.cpus > host.free_cpus:
        return Refusal("LACKS_CPUS", f"{max(host.free_cpus, 0)} of {host.usable_cpus} CPUs are free")
    if demand.memory_bytes > host.free_memory_bytes:
        free, usable = max(host.free_memory_bytes, 0) // MIB, host.usable_memory_bytes // MIB
        return Refusal("LACKS_MEMORY", f"{free} of {usable} MiB of memory are free")
    return None


def _reserve(demand: Demand, host: HostFacts) -> Refusal | None:
    if host.headroom is None or demand.reserve_of == host.cluster_id or not (demand.cpus or demand.memory_bytes):
        return None
    cpus, memory_bytes = host.headroom
    if demand.cpus <= cpus and demand.memory_bytes <= memory_bytes:
        return None
    return Refusal("RESERVED", "its cluster keeps the rest free for VMs of failed hosts (ha.reserve.hosts)")


FILTERS: tuple[Filter, ...] = (
    _requested,
    _elsewhere,
    _in_service,
    _hypervisor,
    _cpu,
    _formats,
    _volume_encryption,
    _uefi,
    _secure_boot,
    _bridges,
    _nic_filter,
    _tpm,
    _pools,
    _affinity,
    _capacity,
    _reserve,
)
