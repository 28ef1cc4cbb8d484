"""Writes the lease in a thread of its own: storage that hangs keeps that thread, and nobody else."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from ostler_agent.guardian.lease import Lease, Place, write

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Renewal:
    """A lease that is on the storage. begun: when writing it began."""

    place: Place
    lease: Lease
    begun: float


class Renewer:
    """One write at a time. clock: seconds since boot."""

    def __init__(self, clock: Callable[[], float], write: Callable[[Place, Lease], None] = write) -> None:
        self._clock = clock
        self._write = write
        self._orders: queue.SimpleQueue[tuple[Place, Lease]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Renewal] = queue.SimpleQueue()
        self._busy = threading.Event()
        self._failed = False
        threading.Thread(target=self._work, name="lease", daemon=True).start()

    def ask(self, place: Place, lease: Lease) -> bool:
        """Begins to write; False while an earlier write has not ended."""
        if self._busy.is_set():
            return False
        self._busy.set()
        self._orders.put((place, lease))
        return True

    def done(self) -> list[Renewal]:
        """What was written since the last call."""
        found = []
        while not self._done.empty():
            found.append(self._done.get_nowait())
        return found

    def _work(self) -> None:
        while True:
            place, lease = self._orders.get()
            begun = self._clock()
            try:
                self._write(place, lease)
            except OSError as error:
                self._log_failure(place, error)
            else:
                self._failed = False
                self._done.put(Renewal(place, lease, begun))
            self._busy.clear()

    def _log_failure(self, place: Place, error: OSError) -> None:
        if not self._failed:  # here, not in the guardian's loop: it must not wait for whoever takes the log
            log.warning("cannot renew the lease", directory=str(place.directory), reason=str(error))
        self._failed = True
