"""Dispatches QEMU's events to listeners, from a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from ostler_agent.hypervisors.base import Listener, VmEvent, VmEventKind
from ostler_agent.spec import VmInfo

log = structlog.get_logger(__name__)

_STOPPED = {"guest-shutdown": "shutdown", "host-qmp-quit": "destroyed", "host-signal": "destroyed", "": "failed"}
_KINDS = {
    "STOP": VmEventKind.PAUSED,
    "RESUME": VmEventKind.RESUMED,
    "RESET": VmEventKind.REBOOTED,
    "GUEST_PANICKED": VmEventKind.CRASHED,
}


def kind_of(event: str) -> VmEventKind | None:
    """The kind of one of QEMU's events; None if it does not concern a VM's state."""
    return _KINDS.get(event)


def stopped_because(shutdown: str) -> str:
    """The detail of a VM's end, from QEMU's shutdown reason."""
    return _STOPPED.get(shutdown, shutdown)


@dataclass(frozen=True)
class _RawEvent:
    vm_id: str
    kind: VmEventKind
    detail: str
    time: datetime


class Dispatcher:
    """Dispatches events in order. describe: returns a VM's current state."""

    def __init__(self, describe: Callable[[str], VmInfo]) -> None:
        self._describe = describe
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._pending: queue.SimpleQueue[_RawEvent | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._dispatch, name="vm-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Dispatches the pending events, then stops."""
        self._pending.put(None)
        self._thread.join()

    def emit(self, vm_id: str, kind: VmEventKind, detail: str, time: datetime) -> None:
        self._pending.put(_RawEvent(vm_id, kind, detail, time))

    def do(self, function: Callable[[], None]) -> None:
        """Calls a function on the dispatching thread, in turn."""
        self._pending.put(function)

    def reconnected(self) -> None:
        """Notifies the listeners that events may have been missed."""
        self._pending.put(self._reconnected)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    def _dispatch(self) -> None:
        while (event := self._pending.get()) is not None:
            try:
                if isinstance(event, _RawEvent):
                    described = VmEvent(event.kind, self._describe(event.vm_id), event.detail, event.time)
                    for listener in self._current():
                        listener.vm_event(described)
                else:
                    event()
            except Exception:
                log.exception("cannot dispatch an event", vm_event=str(event))

    def _reconnected(self) -> None:
        for listener in self._current():
            listener.reconnected()

    def _current(self) -> list[Listener]:
        with self._lock:
            return list(self._listeners)
