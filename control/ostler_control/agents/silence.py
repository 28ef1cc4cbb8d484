"""Cancels calls to agents that have gone silent. One thread watches all streams of the process.

A connection that no packet crosses any more breaks nothing by itself: without this a read may wait for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_CHECK_INTERVAL_S = 0.5


class Cancellable(Protocol):
    """A gRPC call."""

    def cancel(self) -> object:
        """Ends the call, from any thread."""


class WatchedCall:
    """A call that must be heard again and again."""

    def __init__(self, call: Cancellable, limit_s: float) -> None:
        self.call = call
        self._limit_s = limit_s
        self.deadline = time.monotonic() + limit_s

    def heard(self) -> None:
        """An update has arrived: the limit starts anew."""
        self.deadline = time.monotonic() + self._limit_s

    def expect_within(self, seconds: float) -> None:
        """Expects the next update sooner; calling it again does not extend that."""
        self.deadline = min(self.deadline, time.monotonic() + seconds)


class SilenceWatch:
    """Cancels each watched call whose deadline has passed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[WatchedCall] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, call: Cancellable, limit_s: float) -> Iterator[WatchedCall]:
        """While inside: cancels the call when it is silent for `limit_s`."""
        watched = WatchedCall(call, limit_s)
        with self._lock:
            self._calls.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="silence", daemon=True)
                self._thread.start()
        try:
            yield watched
        finally:
            with self._lock:
                self._calls.discard(watched)

    def _watch(self) -> None:
        while True:
            time.sleep(_CHECK_INTERVAL_S)
            now = time.monotonic()
            with self._lock:
                if not self._calls:
                    self._thread = None
                    return
                silent = [watched for watched in self._calls if watched.deadline <= now]
            for watched in silent:
                watched.call.cancel()
