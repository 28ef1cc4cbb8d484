"""libvirt's events: heard on its event loop, told from a thread of their own.

The event loop's thread must never wait for libvirt, so its callbacks only put what they hear into queues.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import libvirt
import structlog
from ostler_common.errors import UnavailableError

from ostler_agent.hypervisors.base import Listener, VmEvent, VmEventKind
from ostler_agent.spec import VmInfo

log = structlog.get_logger(__name__)

_KINDS = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: VmEventKind.DEFINED,
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: VmEventKind.UNDEFINED,
    libvirt.VIR_DOMAIN_EVENT_STARTED: VmEventKind.STARTED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: VmEventKind.PAUSED,
    libvirt.VIR_DOMAIN_EVENT_RESUMED: VmEventKind.RESUMED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED: VmEventKind.STOPPED,
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: VmEventKind.PAUSED,
    libvirt.VIR_DOMAIN_EVENT_CRASHED: VmEventKind.CRASHED,
}


def _details(event: str) -> dict[int, str]:
    """libvirt's words for the details of an event, from its own constants."""
    prefix = f"VIR_DOMAIN_EVENT_{event}_"
    return {
        getattr(libvirt, name): name.removeprefix(prefix).lower().replace("_", "-")
        for name in dir(libvirt)
        if name.startswith(prefix)
    }


_DETAILS = {
    getattr(libvirt, f"VIR_DOMAIN_EVENT_{event}"): _details(event)
    for event in ("DEFINED", "UNDEFINED", "STARTED", "SUSPENDED", "RESUMED", "STOPPED", "PMSUSPENDED", "CRASHED")
}


def classify(event: int, detail: int) -> tuple[VmEventKind, str] | None:
    """Ostler's kind and libvirt's word for why; None for what says nothing about a VM's state."""
    kind = _KINDS.get(event)
    if kind is None:
        return None
    word = _DETAILS[event].get(detail, str(detail))
    gone = kind is VmEventKind.STOPPED and detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED
    come = kind is VmEventKind.RESUMED and detail == libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED
    return (VmEventKind.MIGRATED if gone or come else kind), word


@dataclass(frozen=True)
class RawEvent:
    """Something heard of one VM. kind: "lifecycle", "reboot", "device-removed", "device-kept", "job-completed"."""

    kind: str
    vm_id: str
    time: datetime
    alias: str = ""
    event: int = -1
    detail: int = -1
    stats: Mapping[str, Any] = field(default_factory=dict)


class Events:
    """Hears libvirt's events and tells listeners.

    describe: the VM as it is; changed: called with each VM's id and what happened, before the listeners hear of it.
    """

    def __init__(self, describe: Callable[[str], VmInfo], changed: Callable[[str, VmEventKind, str], None]) -> None:
        self._describe = describe
        self._changed = changed
        self._listeners: list[Listener] = []
        self._taps: list[tuple[str, queue.SimpleQueue[RawEvent]]] = []
        self._lock = threading.Lock()
        self._heard: queue.SimpleQueue[RawEvent | Callable[[], None] | None] = queue.SimpleQueue()
        self._teller = threading.Thread(target=self._tell, name="vm-events", daemon=True)
        self._teller.start()

    def close(self) -> None:
        """Tells what was heard, then no more."""
        self._heard.put(None)
        self._teller.join()

    def register(self, connection: Any) -> Callable[[], None]:
        """Asks a new connection for all events; the result ends that."""
        numbers = []
        for event, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._reboot),
            (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._device_removed),
            (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, self._device_kept),
            (libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, self._job_completed),
        ):
            numbers.append(connection.domainEventRegisterAny(None, event, callback, None))

        def deregister() -> None:
            for number in numbers:
                connection.domainEventDeregisterAny(number)

        return deregister

    def reconnected(self) -> None:
        """Tells the listeners that events may have been missed."""
        self._heard.put(self._tell_reconnected)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tells the listener of events from now on; the result ends that."""
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    @contextmanager
    def tap(self, vm_id: str) -> Iterator[queue.SimpleQueue[RawEvent]]:
        """All that is heard of one VM, as it is heard."""
        tap = (vm_id, queue.SimpleQueue[RawEvent]())
        with self._lock:
            self._taps.append(tap)
        try:
            yield tap[1]
        finally:
            with self._lock:
                self._taps.remove(tap)

    # -- on libvirt's event loop

    def _lifecycle(self, connection: Any, domain: Any, event: int, detail: int, opaque: object) -> None:
        self._hear("lifecycle", domain, event=event, detail=detail)

    def _reboot(self, connection: Any, domain: Any, opaque: object) -> None:
        self._hear("reboot", domain)

    def _device_removed(self, connection: Any, domain: Any, alias: str, opaque: object) -> None:
        self._hear("device-removed", domain, alias=alias)

    def _device_kept(self, connection: Any, domain: Any, alias: str, opaque: object) -> None:
        self._hear("device-kept", domain, alias=alias)

    def _job_completed(self, connection: Any, domain: Any, stats: Mapping[str, Any], opaque: object) -> None:
        self._hear("job-completed", domain, stats=dict(stats))

    def _hear(self, kind: str, domain: Any, **facts: Any) -> None:
        heard = RawEvent(kind, domain.UUIDString(), datetime.now(UTC), **facts)
        with self._lock:
            for vm_id, tap in self._taps:
                if vm_id == heard.vm_id:
                    tap.put(heard)
        self._heard.put(heard)

    # -- on the telling thread

    def _tell(self) -> None:
        while True:
            heard = self._heard.get()
            if heard is None:
                return
            try:
                if isinstance(heard, RawEvent):
                    self._tell_event(heard)
                else:
                    heard()
            except UnavailableError as error:
                # libvirt went away: once it is back, listeners are told to look at everything anew.
                log.info("an event was lost", heard=str(heard), error=str(error))
            except Exception:
                log.exception("an event could not be told", heard=str(heard))

    def _tell_event(self, heard: RawEvent) -> None:
        if heard.kind == "reboot":
            kind, detail = VmEventKind.REBOOTED, ""
        elif heard.kind == "lifecycle" and (classified := classify(heard.event, heard.detail)):
            kind, detail = classified
        else:
            return
        self._changed(heard.vm_id, kind, detail)
        event = VmEvent(kind, self._describe(heard.vm_id), detail, heard.time)
        for listener in self._current():
            listener.vm_event(event)

    def _tell_reconnected(self) -> None:
        for listener in self._current():
            listener.reconnected()

    def _current(self) -> list[Listener]:
        with self._lock:
            return list(self._listeners)
