"""What QEMU says happened, told to listeners from a thread of its own."""

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
    """What one of QEMU's events says about a VM's state; None: nothing."""
    return _KINDS.get(event)


def stopped_because(shutdown: str) -> str:
    """The detail of a VM's end, for QEMU's word."""
    return _STOPPED.get(shutdown, shutdown)


@dataclass(frozen=True)
class _Happened:
    vm_id: str
    kind: VmEventKind
    detail: str
    time: datetime


class Teller:
    """describe: the VM as it is."""

    def __init__(self, describe: Callable[[str], VmInfo]) -> None:
        self._describe = describe
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._heard: queue.SimpleQueue[_Happened | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._tell, name="vm-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tells what happened before, then no more."""
        self._heard.put(None)
        self._thread.join()

    def happened(self, vm_id: str, kind: VmEventKind, detail: str, time: datetime) -> None:
        self._heard.put(_Happened(vm_id, kind, detail, time))

    def do(self, work: Callable[[], None]) -> None:
        """Does something on the telling thread, in turn."""
        self._heard.put(work)

    def reconnected(self) -> None:
        """Tells the listeners that events may have been missed."""
        self._heard.put(self._reconnected)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    def _tell(self) -> None:
        while (heard := self._heard.get()) is not None:
            try:
                if isinstance(heard, _Happened):
                    event = VmEvent(heard.kind, self._describe(heard.vm_id), heard.detail, heard.time)
                    for listener in self._current():
                        listener.vm_event(event)
                else:
                    heard()
            except Exception:
                log.exception("an event could not be told", heard=str(heard))

    def _reconnected(self) -> None:
        for listener in self._current():
            listener.reconnected()

    def _current(self) -> list[Listener]:
        with self._lock:
            return list(self._listeners)
