"""Events of VMs for hypervisors that send none: from the agent's own calls, and from comparing lists of VMs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog
from ostler_common.errors import OstlerError

from ostler_agent.hypervisors.base import Listener, VmEvent, VmEventKind
from ostler_agent.spec import PowerState, VmInfo

log = structlog.get_logger(__name__)

POLL_INTERVAL_S = 1.0
_RUNNING = frozenset({PowerState.RUNNING, PowerState.PAUSED})


class Events:
    """Dispatches events to listeners, in order, from its own thread.

    listed: lists the VMs and passes the list to `compare`; stopped: called with each VM that stopped, before the
    listeners; returns the event's kind and detail if the agent did not stop the VM.
    """

    def __init__(
        self, listed: Callable[[], Sequence[VmInfo]], stopped: Callable[[str], tuple[VmEventKind, str]]
    ) -> None:
        self._listed = listed
        self._stopped = stopped
        self._lock = threading.Lock()
        self._known: dict[str, VmInfo] = {}
        self._listeners: list[Listener] = []
        self._pending: queue.SimpleQueue[VmEvent | Callable[[], None] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"vm-{name}", daemon=True)
            for name, target in (("events", self._dispatch), ("watch", self._watch))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closing.set()
        self._pending.put(None)
        for thread in self._threads:
            thread.join()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    def reconnected(self) -> None:
        self._pending.put(self._dispatch_reconnected)

    def emit(self, kind: VmEventKind, vm: VmInfo, detail: str) -> None:
        self._pending.put(VmEvent(kind, vm, detail, datetime.now(UTC)))

    def compare(self, listed: Sequence[VmInfo], changed: str = "", detail: str = "") -> None:
        """Emits an event for each difference to what was listed before.

        changed: id of the VM that the agent has just changed; detail: how.
        """
        with self._lock:
            before, self._known = self._known, {vm.vm_id: vm for vm in listed}
            for vm in listed:
                self._compare(before.get(vm.vm_id), vm, detail if vm.vm_id == changed else "")
            for vm_id in before.keys() - self._known.keys():
                gone = VmInfo(vm_id, "", PowerState.ABSENT, 0, 0, (), managed=False)
                why = detail if vm_id == changed else ""
                if before[vm_id].power_state in _RUNNING:
                    self._emit_stopped(gone, why)
                self.emit(VmEventKind.UNDEFINED, gone, why or "removed")

    def _compare(self, before: VmInfo | None, now: VmInfo, detail: str) -> None:
        ran = before is not None and before.power_state in _RUNNING
        if before is None:
            self.emit(VmEventKind.DEFINED, now, detail or "added")
        if now.power_state in _RUNNING and not ran:
            self.emit(VmEventKind.STARTED, now, detail or "booted")
        elif ran and now.power_state not in _RUNNING:
            self._emit_stopped(now, detail)

    def _emit_stopped(self, vm: VmInfo, detail: str) -> None:
        kind, why = self._stopped(vm.vm_id)
        self.emit(VmEventKind.STOPPED if detail else kind, vm, detail or why)

    def _watch(self) -> None:
        while not self._closing.wait(POLL_INTERVAL_S):
            try:
                self._listed()
            except OstlerError as error:
                log.info("cannot list the VMs", reason=error.message)
            except Exception:
                log.exception("cannot list the VMs")

    def _dispatch(self) -> None:
        while (event := self._pending.get()) is not None:
            try:
                if isinstance(event, VmEvent):
                    for listener in self._current():
                        listener.vm_event(event)
                else:
                    event()
            except Exception:
                log.exception("cannot dispatch an event")

    def _dispatch_reconnected(self) -> None:
        for listener in self._current():
            listener.reconnected()

    def _current(self) -> list[Listener]:
        with self._lock:
            return list(self._listeners)
