"""Work that is done again and again, from a thread of its own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from ostler_control.outage import log_failure


class Stopping(Exception):
    """The work is to end although it is not done: it was stopped meanwhile."""


class Periodic(ABC):
    """Calls `work` every interval_s seconds until it is stopped. An error is logged; the next call comes in turn."""

    def __init__(self, name: str, interval_s: float) -> None:
        self._name = name
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def work(self) -> None:
        """Does what is due now."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once the work under way has ended."""
        self._stop.set()
        self._thread.join()

    def pause(self, seconds: float) -> None:
        """Waits, for `work`. Raises Stopping when it is stopped meanwhile."""
        if self._stop.wait(seconds):
            raise Stopping

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.work()
            except Stopping:
                return
            except Exception as error:
                log_failure("periodic work failed; it is tried again", error, work=self._name)
