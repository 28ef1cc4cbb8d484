"""Counters of running VMs, all in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import libvirt

from ostler_agent.hypervisors.base import VmSample
from ostler_agent.hypervisors.libvirt.dirty import DirtyRates, rate_of
from ostler_agent.hypervisors.libvirt.errors import translated


def samples(connection: Any, dirty: DirtyRates) -> list[VmSample]:
    """Returns the counters of every running VM."""
    stats = libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BALLOON | libvirt.VIR_DOMAIN_STATS_DIRTYRATE
    # NOWAIT: a VM whose monitor is busy is reported with the known values and does not block.
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    with translated("measuring VMs"):
        found = connection.getAllDomainStats(stats, flags)
        dirty.begin_next(domain for domain, _ in found)
        return [sample(domain.UUIDString(), record) for domain, record in found]


def sample(vm_id: str, record: Mapping[str, Any]) -> VmSample:
    """Converts libvirt's record; its balloon values are in KiB."""
    available, unused = record.get("balloon.available", 0), record.get("balloon.unused", 0)
    usable = record.get("balloon.usable", unused)
    return VmSample(
        vm_id=vm_id,
        cpu_time_ns=record.get("cpu.time", 0),
        rss_bytes=record.get("balloon.rss", 0) * 1024,
        guest_used_bytes=max(0, available - usable) * 1024,
        dirty_rate_bytes_per_s=rate_of(record),
    )
