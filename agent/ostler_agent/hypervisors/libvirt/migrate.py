"""Moving a running VM: peer to peer, so that it goes on and ends well even if this agent dies meanwhile."""

from __future__ import annotations

import queue
import threading
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
    UnavailableError,
)

from ostler_agent.hypervisors.base import Destination, MoveLimits, MoveOutcome, MoveReport, Progress
from ostler_agent.hypervisors.libvirt import domains, inventory
from ostler_agent.hypervisors.libvirt.errors import is_code, to_ostler_error, translated
from ostler_agent.hypervisors.libvirt.events import Events, RawEvent
from ostler_agent.hypervisors.libvirt.live import refuse_busy
from ostler_agent.hypervisors.libvirt.xml import disks
from ostler_agent.hypervisors.libvirt.xml.rewrite import for_destination

log = structlog.get_logger(__name__)

POLL_INTERVAL_S = 0.25
RETRY_TIMEOUT_S = 60  # how long libvirtd may be away at the end of a move; a restart takes seconds
MIB = 1024 * 1024

Connect = Callable[[], Any]


def migrate(
    connect: Connect, events: Events, vm_id: str, destination: Destination, limits: MoveLimits, progress: Progress
) -> MoveReport:
    """See `base.LiveMigration.migrate`."""
    domain = domains.get_active(connect(), vm_id)
    began = time.monotonic()
    with translated(f"preparing the move of VM {vm_id}"):
        refuse_busy(domain, vm_id, inventory.active_disks(domain))
        live = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)
        memory_bytes = domain.maxMemory() * 1024
        parameters = _parameters(domain, live, destination, limits)
        domain.migrateSetMaxDowntime(limits.max_downtime_ms)
    flags = _flags(live, destination, limits)
    with events.tap(vm_id) as heard:
        call = _Call(lambda: domain.migrateToURI3(destination.addresses.hypervisor_uri, parameters, flags))
        stopped_by = _watch(domain, call.wait, memory_bytes, limits.timeout_s, progress)
        completed = _completed(heard)
    outcome = _patiently(lambda: _outcome(connect(), vm_id), RETRY_TIMEOUT_S)
    if outcome is MoveOutcome.MOVED:
        return report(completed, round((time.monotonic() - began) * 1000))
    raise _failure(vm_id, outcome, stopped_by, call.error)


def await_migration(connect: Connect, vm_id: str, timeout_s: float, progress: Progress) -> MoveOutcome:
    """See `base.LiveMigration.await_migration`."""

    def wait() -> MoveOutcome:
        domain = inventory.find(connect(), vm_id)
        if domain is not None and inventory.is_active(domain):
            _watch(domain, partial(_no_longer_moving, domain), domain.maxMemory() * 1024, timeout_s, progress)
        return _outcome(connect(), vm_id)

    return _patiently(wait, timeout_s)


@dataclass(frozen=True)
class MoveProgress:
    """How far a move is: bytes of the present phase, percent of the whole."""

    phase: str
    done_bytes: int
    total_bytes: int
    percent: int


def move_progress(stats: Mapping[str, Any], memory_bytes: int) -> MoveProgress:
    """How far a move is by libvirt's job statistics; memory counts from the start, though it goes after the disks."""
    disk_total, disk_left = stats.get("disk_total", 0), stats.get("disk_remaining", 0)
    memory_total = stats.get("memory_total", 0)
    memory_left = stats.get("memory_remaining", 0) if memory_total else memory_bytes
    whole = disk_total + max(memory_bytes, 1)
    left = min(whole, disk_left + min(memory_left, memory_bytes))
    percent = min(99, 100 * (whole - left) // whole)
    if disk_left and not memory_total:
        return MoveProgress("copying disks", disk_total - disk_left, disk_total, percent)
    return MoveProgress("copying memory", stats.get("memory_processed", 0), memory_total, percent)


def report(stats: Mapping[str, Any], elapsed_ms: int) -> MoveReport:
    """What the statistics of a completed job say; elapsed_ms where they say nothing."""
    return MoveReport(
        elapsed_ms=stats.get("time_elapsed", elapsed_ms),
        downtime_ms=stats.get("downtime", 0),
        transferred_bytes=stats.get("data_processed", 0),
        dirty_rate_bytes_per_s=stats.get("memory_dirty_rate", 0) * stats.get("memory_page_size", 4096),
    )


def _parameters(domain: Any, live: str, destination: Destination, limits: MoveLimits) -> dict[str, Any]:
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


def _flags(live: str, destination: Destination, limits: MoveLimits) -> int:
    flags: int = (
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PEER2PEER
        | libvirt.VIR_MIGRATE_TLS
        | libvirt.VIR_MIGRATE_PERSIST_DEST
        | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
    )
    if ElementTree.fromstring(live).find("os/nvram") is None:
        # With firmware variables the driver removes the definition itself: libvirt would leave their file behind.
        flags |= libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    if limits.auto_converge:
        flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
    if destination.moved:
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
    if any(disk.volume_id not in destination.moved for disk in _disks(live)):
        # libvirt calls disks unsafe when it does not know their file system as shared. That both hosts see the same
        # directory is proved before (the pool's fingerprint); QEMU drops its caches when it hands over.
        flags |= libvirt.VIR_MIGRATE_UNSAFE
    return flags


def _disks(xml: str) -> list[disks.AttachedDisk]:
    return disks.attached_disks(ElementTree.fromstring(xml))


def _no_longer_moving(domain: Any, wait_s: float) -> bool:
    if not inventory.is_active(domain) or not inventory.is_migrating_out(domain):
        return True
    time.sleep(wait_s)
    return False


def _patiently(ask: Callable[[], MoveOutcome], timeout_s: float) -> MoveOutcome:
    """The answer; while libvirtd is away it is asked again, for only libvirtd knows. Raises UnavailableError."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with translated("looking what became of a move"):
                return ask()
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_INTERVAL_S)


class _Call:
    """A blocking call in a thread of its own. error: what it raised."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.error: libvirt.libvirtError | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, name="vm-migration", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except libvirt.libvirtError as error:
            self.error = error

    def wait(self, timeout_s: float) -> bool:
        """Whether it is over, waiting so long for it."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def _watch(
    domain: Any, over: Callable[[float], bool], memory_bytes: int, timeout_s: float, progress: Progress
) -> OstlerError | None:
    """Waits for the move to end, telling its progress; stops it when it is cancelled or takes too long and says why."""
    deadline = time.monotonic() + timeout_s
    stopped_by: OstlerError | None = None
    while not over(POLL_INTERVAL_S):
        try:
            if stopped_by is None:
                progress.check()
                if time.monotonic() > deadline:
                    raise DeadlineExceededError(
                        f"the move took longer than {timeout_s} s (allow more downtime or bandwidth, or auto-converge)",
                        "MIGRATION_TIMEOUT",
                    )
                _tell(domain, memory_bytes, progress)
        except OstlerError as error:
            stopped_by = error
        if stopped_by is not None:
            _abort(domain)  # again and again: it may come before libvirt's job has begun
    return stopped_by


def _tell(domain: Any, memory_bytes: int, progress: Progress) -> None:
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError:
        return  # just over
    if stats.get("type") in (libvirt.VIR_DOMAIN_JOB_BOUNDED, libvirt.VIR_DOMAIN_JOB_UNBOUNDED):
        now = move_progress(stats, memory_bytes)
        progress.report(now.phase, now.done_bytes, now.total_bytes, now.percent)


def _abort(domain: Any) -> None:
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        log.info("the move could not be stopped yet", error=error.get_error_message())


def _completed(heard: queue.SimpleQueue[RawEvent]) -> Mapping[str, Any]:
    """The statistics of the job that ended, if libvirt told them."""
    stats: Mapping[str, Any] = {}
    while not heard.empty():
        event = heard.get()
        if event.kind == "job-completed":
            stats = event.stats
    return stats


def _outcome(connection: Any, vm_id: str) -> MoveOutcome:
    """What became of the VM, by what libvirt has here: its word after an error may be about the connection only."""
    with translated(f"looking what became of VM {vm_id}"):
        domain = inventory.find(connection, vm_id)
        if domain is None:
            return MoveOutcome.MOVED
        try:
            if inventory.is_active(domain):
                return MoveOutcome.RUNNING_HERE
            state = domain.state()
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                return MoveOutcome.MOVED
            raise
        if tuple(state) == (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED):
            return MoveOutcome.MOVED
        return MoveOutcome.STOPPED_HERE


def _failure(
    vm_id: str, outcome: MoveOutcome, stopped_by: OstlerError | None, error: libvirt.libvirtError | None
) -> OstlerError:
    if outcome is MoveOutcome.STOPPED_HERE:
        return FailedPreconditionError(f"VM {vm_id} stopped while it was moving", "VM_STOPPED", {"vm": vm_id})
    if stopped_by is not None:
        return stopped_by
    if error is None:
        return AbortedError(f"VM {vm_id} has not moved and runs here", "MIGRATION_FAILED", {"vm": vm_id})
    cause = to_ostler_error(error, f"VM {vm_id} has not moved and runs here")
    return AbortedError(cause.message, "MIGRATION_FAILED", {"vm": vm_id, "cause": cause.reason})
