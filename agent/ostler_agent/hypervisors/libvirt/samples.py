"""Counters of running VMs, all in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import libvirt

from ostler_agent.hypervisors.base import DiskCounters, NicCounters, VmSample
from ostler_agent.hypervisors.libvirt.dirty import DirtyRates, rate_of
from ostler_agent.hypervisors.libvirt.errors import translated

_STATS = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_DIRTYRATE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)


def samples(connection: Any, dirty: DirtyRates) -> list[VmSample]:
    """Returns the counters of every running VM."""
    # NOWAIT: a VM whose monitor is busy is reported with the known values and does not block.
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    with translated("measuring VMs"):
        found = connection.getAllDomainStats(_STATS, flags)
        dirty.begin_next(domain for domain, _ in found)
        return [sample(domain.UUIDString(), record) for domain, record in found]


# libvirt's record: text and numbers by name.
Record = Mapping[str, Any]


def sample(vm_id: str, record: Record) -> VmSample:
    """Converts libvirt's record; its balloon values are in KiB."""
    available, unused = record.get("balloon.available", 0), record.get("balloon.unused", 0)
    usable = record.get("balloon.usable", unused)
    return VmSample(
        vm_id=vm_id,
        cpu_time_ns=record.get("cpu.time", 0),
        rss_bytes=record.get("balloon.rss", 0) * 1024,
        guest_used_bytes=max(0, available - usable) * 1024,
        dirty_rate_bytes_per_s=rate_of(record),
        disks=tuple(_disk(f"block.{index}.", record) for index in range(record.get("block.count", 0))),
        nics=tuple(_nic(f"net.{index}.", record) for index in range(record.get("net.count", 0))),
    )


def _disk(prefix: str, record: Record) -> DiskCounters:
    return DiskCounters(
        device=record.get(f"{prefix}name", ""),
        read_bytes=record.get(f"{prefix}rd.bytes", 0),
        write_bytes=record.get(f"{prefix}wr.bytes", 0),
        reads=record.get(f"{prefix}rd.reqs", 0),
        writes=record.get(f"{prefix}wr.reqs", 0),
    )


def _nic(prefix: str, record: Record) -> NicCounters:
    """libvirt turns the counters of the host's interface around, so that they are the guest's."""
    return NicCounters(
        interface=record.get(f"{prefix}name", ""),
        receive_bytes=record.get(f"{prefix}rx.bytes", 0),
        transmit_bytes=record.get(f"{prefix}tx.bytes", 0),
        receive_packets=record.get(f"{prefix}rx.pkts", 0),
        transmit_packets=record.get(f"{prefix}tx.pkts", 0),
        receive_drops=record.get(f"{prefix}rx.drop", 0),
        transmit_drops=record.get(f"{prefix}tx.drop", 0),
    )
