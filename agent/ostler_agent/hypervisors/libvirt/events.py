"""Receives libvirt's events on its event loop and dispatches them to listeners from another thread.

The event loop's thread must never wait for libvirt, so that its callbacks only put events into queues.
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
    """Names of the details of an event, from libvirt's constants."""
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
    """Returns Ostler's kind and libvirt's detail; None for an event that does not concern a VM's state."""
    kind = _KINDS.get(event)
    if kind is None:
        return None
    word = _DETAILS[event].get(detail, str(detail))
    gone = kind is VmEventKind.STOPPED and detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED
    come = kind is VmEventKind.RESUMED and detail == libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED
    return (VmEventKind.MIGRATED if gone or come else kind), word


@dataclass(frozen=True)
class RawEvent:
    """An event of one VM. kind: "lifecycle", "reboot", "device-removed", "device-kept", "job-completed"."""

    kind: str
    vm_id: str
    time: datetime
    alias: str = ""
    event: int = -1
    detail: int = -1
    stats: Mapping[str, Any] = field(default_factory=dict)


class Events:
    """Receives libvirt's events and dispatches them to listeners.

    describe: returns a VM's current state; changed: called with the VM's id, kind and detail before the listeners.
    """

    def __init__(self, describe: Callable[[str], VmInfo], changed: Callable[[str, VmEventKind, str], None]) -> None:
        self._describe = describe
        self._changed = changed
        self._listeners: list[Listener] = []
        self._taps: list[tuple[str, queue.SimpleQueue[RawEvent]]] = []
        self._lock = threading.Lock()
        self._pending: queue.SimpleQueue[RawEvent | Callable[[], None] | None] = queue.SimpleQueue()
        self._dispatcher = threading.Thread(target=self._dispatch, name="vm-events", daemon=True)
        self._dispatcher.start()

    def close(self) -> None:
        """Dispatches the pending events, then stops."""
        self._pending.put(None)
        self._dispatcher.join()

    def register(self, connection: Any) -> Callable[[], None]:
        """Registers for all events of a new connection; call the result to deregister."""
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
        """Notifies the listeners that events may have been missed."""
        self._pending.put(self._dispatch_reconnected)

    def did_not_start(self, vm_id: str) -> None:
        """Notifies the listeners that a VM is off. libvirt tells of the definition before a start, by then it may be
        seen paused; of a QEMU that then fails it tells nothing."""
        detail = libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED
        event = RawEvent("lifecycle", vm_id, datetime.now(UTC), event=libvirt.VIR_DOMAIN_EVENT_STOPPED, detail=detail)
        self._pending.put(event)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Sends events to the listener from now on; call the result to unsubscribe."""
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    @contextmanager
    def tap(self, vm_id: str) -> Iterator[queue.SimpleQueue[RawEvent]]:
        """Yields a queue that receives all events of one VM within the block."""
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
        self._receive("lifecycle", domain, event=event, detail=detail)

    def _reboot(self, connection: Any, domain: Any, opaque: object) -> None:
        self._receive("reboot", domain)

    def _device_removed(self, connection: Any, domain: Any, alias: str, opaque: object) -> None:
        self._receive("device-removed", domain, alias=alias)

    def _device_kept(self, connection: Any, domain: Any, alias: str, opaque: object) -> None:
        self._receive("device-kept", domain, alias=alias)

    def _job_completed(self, connection: Any, domain: Any, stats: Mapping[str, Any], opaque: object) -> None:
        self._receive("job-completed", domain, stats=dict(stats))

    def _receive(self, kind: str, domain: Any, **facts: Any) -> None:
        event = RawEvent(kind, domain.UUIDString(), datetime.now(UTC), **facts)
        with self._lock:
            for vm_id, tap in self._taps:
                if vm_id == event.vm_id:
                    tap.put(event)
        self._pending.put(event)

    # -- on the dispatching thread

    def _dispatch(self) -> None:
        while True:
            event = self._pending.get()
            if event is None:
                return
            try:
                if isinstance(event, RawEvent):
                    self._dispatch_event(event)
                else:
                    event()
            except UnavailableError as error:
                # libvirt is unreachable: once it is back, `reconnected` makes listeners inspect everything again.
                log.info("lost an event", vm_event=str(event), error=str(error))
            except Exception:
                log.exception("cannot dispatch an event", event=str(event))

    def _dispatch_event(self, raw: RawEvent) -> None:
        if raw.kind == "reboot":
            kind, detail = VmEventKind.REBOOTED, ""
        elif raw.kind == "lifecycle" and (classified := classify(raw.event, raw.detail)):
            kind, detail = classified
        else:
            return
        self._changed(raw.vm_id, kind, detail)
        event = VmEvent(kind, self._describe(raw.vm_id), detail, raw.time)
        for listener in self._current():
            listener.vm_event(event)

    def _dispatch_reconnected(self) -> None:
        for listener in self._current():
            listener.reconnected()

    def _current(self) -> list[Listener]:
        with self._lock:
            return list(self._listeners)
