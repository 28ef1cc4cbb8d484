"""Unmaps volumes that no VM of this host uses any more."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog

from ostler_agent.pools.base import VmLister
from ostler_agent.spec import PowerState, VmInfo

log = structlog.get_logger(__name__)

INTERVAL_S = 15.0
SWEEP_INTERVAL_S = 300.0
# A VM starts or arrives at most this long after its volumes' paths were requested.
GRACE_S = 600.0
_EXECUTING = frozenset({PowerState.RUNNING, PowerState.PAUSED})
# After these a VM has no volume open. A VM that was just defined is about to start.
_ENDS = frozenset({"STOPPED", "CRASHED", "MIGRATED", "UNDEFINED"})


class Volumes(Protocol):
    """The part of `manager.Pools` that the unmapper needs."""

    def unmap_unused(self, used: Collection[str], requested_before: float, only: Collection[str] | None = None) -> None:
        """See `base.UnmapsVolumes`."""


class Event(Protocol):
    """The part of a hypervisor's event that the unmapper needs. kind: one of `hypervisors.base.VmEventKind`."""

    @property
    def kind(self) -> str: ...

    @property
    def vm(self) -> VmInfo: ...

    @property
    def time(self) -> datetime: ...


@dataclass(frozen=True)
class _Heard:
    """time_s: when the driver heard of it (time.monotonic()); it may have waited since. ended: the VM, if it did."""

    time_s: float
    ended: VmInfo | None


class Unmapper:
    """Unmaps the volumes of a VM when it stops or leaves, and a detached volume soon after.

    Also checks all mapped volumes at intervals, for those that a killed agent left mapped.

    The end of a run may be heard late, when the VM is about to start again or to come back from another host. So a
    volume is unmapped only if its path was requested before it was last seen in use; one that was never seen, because
    the run was short or did not begin, if that was before the driver heard of the end.
    """

    def __init__(
        self,
        volumes: Volumes,
        lister: VmLister,
        interval_s: float = INTERVAL_S,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._volumes = volumes
        self._lister = lister
        self._interval_s = interval_s
        self._sweep_interval_s = sweep_interval_s
        self._grace_s = grace_s
        # Volumes that an earlier run of the agent mapped for VMs about to start get the grace period too.
        self._next_sweep = time.monotonic() + grace_s
        self._scan_time = time.monotonic()
        self._events: queue.SimpleQueue[_Heard | None] = queue.SimpleQueue()
        self._used: frozenset[str] = frozenset()  # at the last scan
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="unmapper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._events.put(None)
        if self._thread:
            self._thread.join()

    def vm_event(self, event: Event) -> None:
        waited_s = max(0.0, (datetime.now(UTC) - event.time).total_seconds())
        ended = event.vm if event.kind in _ENDS else None
        self._events.put(_Heard(time.monotonic() - waited_s, ended))

    def reconnected(self) -> None:
        """Nothing to do: the next scan finds what has changed."""

    def _run(self) -> None:
        while True:
            event = None
            try:
                event = self._events.get(timeout=self._interval_s)
                if event is None:
                    return
            except queue.Empty:
                pass
            try:
                self._scan(event)
            except Exception:
                log.exception("cannot scan for unused volumes")

    def _scan(self, event: _Heard | None) -> None:
        now, before = time.monotonic(), self._used
        vms = [vm for vm in self._lister.vms() if vm.power_state in _EXECUTING]
        used = self._used = frozenset[str]().union(*(vm.open_volume_ids for vm in vms))
        ended = event.ended if event else None
        if event and ended and ended.vm_id not in {vm.vm_id for vm in vms}:
            self._unmap(used, frozenset(ended.open_volume_ids) - before - used, event.time_s)
        # They were in use at the last scan: a path requested since then is for a VM that is about to start.
        self._unmap(used, before - used, self._scan_time)
        self._scan_time = now
        if now >= self._next_sweep:
            self._next_sweep = now + self._sweep_interval_s
            self._volumes.unmap_unused(used, now - self._grace_s)

    def _unmap(self, used: frozenset[str], left: frozenset[str], requested_before: float) -> None:
        if left:
            self._volumes.unmap_unused(used, requested_before, left)
