"""Has volumes unmapped from this host that no VM here uses any more."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from ostler_agent.spec import PowerState, VmInfo

log = structlog.get_logger(__name__)

INTERVAL_S = 15.0
SWEEP_INTERVAL_S = 300.0
# A VM is about to start, or to come here, for no longer than this after it was given its volumes' paths.
GRACE_S = 600.0
_EXECUTING = frozenset({PowerState.RUNNING, PowerState.PAUSED})


class Guests(Protocol):
    """What is needed of the hypervisor's driver."""

    def vms(self) -> Sequence[VmInfo]:
        """Every VM that the hypervisor knows."""


class Volumes(Protocol):
    """What is needed of `manager.Pools`."""

    def unmap_unused(self, used: Collection[str], requested_before: float, only: Collection[str] | None = None) -> None:
        """See `base.UnmapsVolumes`."""


class Event(Protocol):
    """What is needed of a hypervisor's event."""

    @property
    def vm(self) -> VmInfo: ...


@dataclass(frozen=True)
class _Stopped:
    vm: VmInfo
    time_s: float


class Unmapper:
    """Listens to the driver: a VM that stopped or left loses its volumes at once, one that was detached soon after.

    Now and then all that is mapped is looked through, for what an agent that was killed left.
    """

    def __init__(
        self,
        volumes: Volumes,
        guests: Guests,
        interval_s: float = INTERVAL_S,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._volumes = volumes
        self._guests = guests
        self._interval_s = interval_s
        self._sweep_interval_s = sweep_interval_s
        self._grace_s = grace_s
        # What an earlier life of the agent gave to VMs that are about to start has its grace too.
        self._next_sweep = time.monotonic() + grace_s
        self._looked = time.monotonic()
        self._heard: queue.SimpleQueue[_Stopped | None] = queue.SimpleQueue()
        self._used: dict[str, frozenset[str]] = {}  # by VM that executed when last looked: it may be gone by now
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="unmapper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._heard.put(None)
        if self._thread:
            self._thread.join()

    def vm_event(self, event: Event) -> None:
        self._heard.put(_Stopped(event.vm, time.monotonic()))

    def reconnected(self) -> None:
        """What happened meanwhile is found at the next look."""

    def _run(self) -> None:
        while True:
            heard = None
            try:
                heard = self._heard.get(timeout=self._interval_s)
                if heard is None:
                    return
            except queue.Empty:
                pass
            try:
                self._look(heard)
            except Exception:
                log.exception("unused volumes could not be looked for")

    def _look(self, heard: _Stopped | None) -> None:
        now, before = time.monotonic(), self._used
        vms = [vm for vm in self._guests.vms() if vm.power_state in _EXECUTING]
        self._used = {vm.vm_id: frozenset(vm.open_volume_ids) for vm in vms}
        used = _all(self._used)
        if heard and heard.vm.vm_id not in self._used:
            self._unmap(
                used, before.pop(heard.vm.vm_id, frozenset()).union(heard.vm.open_volume_ids) - used, heard.time_s
            )
        # They were in use at the last look: what was asked for since then is for a VM that starts just now.
        self._unmap(used, _all(before) - used, self._looked)
        self._looked = now
        if now >= self._next_sweep:
            self._next_sweep = now + self._sweep_interval_s
            self._volumes.unmap_unused(used, now - self._grace_s)

    def _unmap(self, used: frozenset[str], left: frozenset[str], requested_before: float) -> None:
        if left:
            self._volumes.unmap_unused(used, requested_before, left)


def _all(used: Mapping[str, frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*used.values())
