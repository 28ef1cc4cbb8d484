"""Migrates a running VM, peer to peer: libvirt finishes the migration even if this agent dies."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from xml.etree import ElementTree

import libvirt
import structlog
from ostler_common.errors import (
    AbortedError,
    DeadlineExceededError,
    FailedPreconditionError,
    OstlerError,
)

from ostler_agent.hypervisors.base import Destination, MigrationLimits, MigrationOutcome, MigrationReport, Progress
from ostler_agent.hypervisors.libvirt import domains, inventory
from ostler_agent.hypervisors.libvirt.calls import Call
from ostler_agent.hypervisors.libvirt.errors import is_code, to_ostler_error, translated
from ostler_agent.hypervisors.libvirt.events import RawEvent
from ostler_agent.hypervisors.libvirt.live import refuse_busy, retry_while_unavailable
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml import cdrom, disks, tpm
from ostler_agent.hypervisors.libvirt.xml.rewrite import for_destination

log = structlog.get_logger(__name__)

POLL_INTERVAL_S = 0.25
STATISTICS_WAIT_S = 5.0
MIB = 1024 * 1024


def migrate(
    session: Session, vm_id: str, destination: Destination, limits: MigrationLimits, progress: Progress
) -> MigrationReport:
    """See `base.LiveMigration.migrate`."""
    domain = domains.get_active(session, vm_id)
    began = time.monotonic()
    with translated(f"preparing the migration of VM {vm_id}"):
        refuse_busy(domain, vm_id, inventory.active_disks(domain))
        live = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)
        memory_bytes = domain.maxMemory() * 1024
        parameters = _parameters(domain, live, destination, limits)
        domain.migrateSetMaxDowntime(limits.max_downtime_ms)
    flags = _flags(live, destination, limits)
    with session.events.tap(vm_id) as events:
        call = Call(
            "vm-migration",
            lambda: domain.migrateToURI3(destination.addresses.hypervisor_uri, parameters, flags),
        )
        stopped_by = _watch(domain, call.wait, memory_bytes, limits.timeout_s, progress)
        completed = _completed(events, STATISTICS_WAIT_S if call.error is None else 0)
    outcome = retry_while_unavailable(lambda: _outcome(session, vm_id))
    if outcome is MigrationOutcome.MOVED:
        return report(completed, round((time.monotonic() - began) * 1000))
    raise _failure(vm_id, outcome, stopped_by, call.error)


def await_migration(session: Session, vm_id: str, timeout_s: float, progress: Progress) -> MigrationOutcome:
    """See `base.LiveMigration.await_migration`."""

    def wait() -> MigrationOutcome:
        with translated(f"inspecting VM {vm_id}"):
            domain = inventory.find(session.connect(), vm_id)
            if domain is not None and inventory.is_active(domain):
                over = partial(_is_no_longer_migrating, domain)
                _watch(domain, over, domain.maxMemory() * 1024, timeout_s, progress)
        return _outcome(session, vm_id)

    return retry_while_unavailable(wait, timeout_s)


@dataclass(frozen=True)
class MigrationProgress:
    """The progress of a migration. done_bytes, total_bytes: of the current phase; percent: of the whole."""

    phase: str
    done_bytes: int
    total_bytes: int
    percent: int


def migration_progress(stats: Mapping[str, Any], memory_bytes: int) -> MigrationProgress:
    """The progress by libvirt's job statistics. Memory counts from the start, although disks are copied first."""
    disk_total, disk_left = stats.get("disk_total", 0), stats.get("disk_remaining", 0)
    memory_total = stats.get("memory_total", 0)
    memory_left = stats.get("memory_remaining", 0) if memory_total else memory_bytes
    whole = disk_total + max(memory_bytes, 1)
    left = min(whole, disk_left + min(memory_left, memory_bytes))
    percent = min(99, 100 * (whole - left) // whole)
    if disk_left and not memory_total:
        return MigrationProgress("copying disks", disk_total - disk_left, disk_total, percent)
    return MigrationProgress("copying memory", stats.get("memory_processed", 0), memory_total, percent)


def report(stats: Mapping[str, Any], elapsed_ms: int) -> MigrationReport:
    """The report from the statistics of a completed job; elapsed_ms: used if they lack the time."""
    return MigrationReport(
        elapsed_ms=stats.get("time_elapsed", elapsed_ms),
        downtime_ms=stats.get("downtime", 0),
        transferred_bytes=stats.get("data_processed", 0),
        dirty_rate_bytes_per_s=stats.get("memory_dirty_rate", 0) * stats.get("memory_page_size", 4096),
    )


def _parameters(domain: Any, live: str, destination: Destination, limits: MigrationLimits) -> dict[str, Any]:
    there = (destination.paths, destination.keys, destination.bridges)
    config = domain.XMLDesc(
        libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
    )
    parameters: dict[str, Any] = {
        libvirt.VIR_MIGRATE_PARAM_URI: destination.addresses.migrate_uri,
        libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION: destination.tls_name,
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: for_destination(live, *there),
        libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: for_destination(config, *there),
    }
    if limits.bandwidth_bytes_per_s:
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = max(1, limits.bandwidth_bytes_per_s // MIB)
    if destination.moved:
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = [
            disk.target for disk in _disks(live) if disk.volume_id in destination.moved
        ]
        if destination.addresses.disks_uri:
            parameters[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = destination.addresses.disks_uri
    return parameters


def _flags(live: str, destination: Destination, limits: MigrationLimits) -> int:
    flags: int = (
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PEER2PEER
        | libvirt.VIR_MIGRATE_TLS
        | libvirt.VIR_MIGRATE_PERSIST_DEST
        | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
    )
    domain = ElementTree.fromstring(live)
    if domain.find("os/nvram") is None and not tpm.is_in(domain):
        # The driver undefines a VM with firmware variables or a TPM itself: libvirt would leave their files behind.
        flags |= libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    if limits.auto_converge:
        flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
    if destination.moved:
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
    stays = any(disk.volume_id not in destination.moved for disk in _disks(live))
    if stays or cdrom.has_image(domain):
        # libvirt calls disks unsafe if it does not know their file system as shared. The pool's fingerprint has proved
        # that both hosts see the same directory, and QEMU drops its caches at the handover. The CD-ROM is read-only,
        # with the same image on both hosts.
        flags |= libvirt.VIR_MIGRATE_UNSAFE
    return flags


def _disks(xml: str) -> list[disks.AttachedDisk]:
    return disks.attached_disks(ElementTree.fromstring(xml))


def _is_no_longer_migrating(domain: Any, wait_s: float) -> bool:
    if not inventory.is_active(domain) or not inventory.is_migrating_out(domain):
        return True
    time.sleep(wait_s)
    return False


def _watch(
    domain: Any, over: Callable[[float], bool], memory_bytes: int, timeout_s: float, progress: Progress
) -> OstlerError | None:
    """Waits for the end and reports progress; on cancellation or timeout aborts the migration and returns the error."""
    deadline = time.monotonic() + timeout_s
    stopped_by: OstlerError | None = None
    while not over(POLL_INTERVAL_S):
        try:
            if stopped_by is None:
                progress.check()
                if time.monotonic() > deadline:
                    raise DeadlineExceededError(
                        f"the migration exceeded {timeout_s} s (allow more downtime, bandwidth or auto-converge)",
                        "MIGRATION_TIMEOUT",
                    )
                _report_progress(domain, memory_bytes, progress)
        except OstlerError as error:
            stopped_by = error
        if stopped_by is not None:
            _abort(domain)  # in every round: libvirt's job may not have begun yet
    return stopped_by


def _report_progress(domain: Any, memory_bytes: int, progress: Progress) -> None:
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError:
        return  # the job has just ended
    if stats.get("type") in (libvirt.VIR_DOMAIN_JOB_BOUNDED, libvirt.VIR_DOMAIN_JOB_UNBOUNDED):
        now = migration_progress(stats, memory_bytes)
        progress.report(now.phase, now.done_bytes, now.total_bytes, now.percent)


def _abort(domain: Any) -> None:
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        log.info("cannot abort the migration yet", error=error.get_error_message())


def _completed(events: queue.SimpleQueue[RawEvent], wait_s: float) -> Mapping[str, Any]:
    """The statistics of the completed job, or none. Another thread receives them: up to wait_s later than the call."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            event = events.get(timeout=max(0.001, deadline - time.monotonic()))
        except queue.Empty:
            return {}
        if event.kind == "job-completed":
            return event.stats


def _outcome(session: Session, vm_id: str) -> MigrationOutcome:
    """The outcome by the VM's state on this host: an error of the call may concern only the connection."""
    with translated(f"inspecting VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        if domain is None:
            return MigrationOutcome.MOVED
        try:
            if inventory.is_active(domain):
                return MigrationOutcome.RUNNING_HERE
            state = domain.state()
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                return MigrationOutcome.MOVED
            raise
        if tuple(state) == (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED):
            return MigrationOutcome.MOVED
        return MigrationOutcome.STOPPED_HERE


def _failure(
    vm_id: str, outcome: MigrationOutcome, stopped_by: OstlerError | None, error: libvirt.libvirtError | None
) -> OstlerError:
    if outcome is MigrationOutcome.STOPPED_HERE:
        return FailedPreconditionError(f"VM {vm_id} stopped during its migration", "VM_STOPPED", {"vm": vm_id})
    if stopped_by is not None:
        return stopped_by
    if error is None:
        return AbortedError(
            f"VM {vm_id} did not migrate and still runs on this host", "MIGRATION_FAILED", {"vm": vm_id}
        )
    cause = to_ostler_error(error, f"VM {vm_id} did not migrate and still runs on this host")
    return AbortedError(cause.message, "MIGRATION_FAILED", {"vm": vm_id, "cause": cause.reason})
