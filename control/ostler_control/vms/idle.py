"""Ends what a person has left unattended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class IdleTimer:
    """Calls `end` once, from a thread of its own, when nothing was touched for timeout_s; 0: never."""

    def __init__(self, timeout_s: float, end: Callable[[], object]) -> None:
        self.expired = False
        self._timeout_s = timeout_s
        self._end = end
        self._touched = time.monotonic()
        self._stopped = threading.Event()
        if timeout_s:
            threading.Thread(target=self._watch, name="idle-timer", daemon=True).start()

    def touch(self) -> None:
        """The time begins anew."""
        self._touched = time.monotonic()

    def stop(self) -> None:
        """Ends the watch. Idempotent."""
        self._stopped.set()

    def _watch(self) -> None:
        while (left_s := self._touched + self._timeout_s - time.monotonic()) > 0:
            if self._stopped.wait(left_s):
                return
        self.expired = True
        self._end()
