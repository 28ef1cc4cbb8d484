"""How much one caller may ask of a server at a time, and how long it may take to send its request."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message

from ostler_common.errors import ResourceExhaustedError

_TICK_S = 0.5


def _accept(message: Message) -> None:
    """Checks nothing."""


@dataclass(frozen=True)
class Limits:
    """short, long: how many calls of each kind a caller, and each of its certificates and connections, may have at once
    (0: any number); read_s: how long the first message may take to arrive (0: as long as it likes); check: raises
    InvalidArgumentError for a request whose fields are too large.
    """

    short: int = 0
    long: int = 0
    read_s: float = 0
    check: Callable[[Message], None] = _accept


NO_LIMITS = Limits()


class CallCounter:
    """Counts the running calls by caller, certificate and connection."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()

    @contextlib.contextmanager
    def call(self, keys: Sequence[str]) -> Iterator[None]:
        """While inside, a call counts under each key. Raises ResourceExhaustedError TOO_MANY_CALLS."""
        if not self._limit:
            yield
            return
        with self._lock:
            if any(self._running[key] >= self._limit for key in keys):
                raise ResourceExhaustedError(
                    f"{self._limit} calls of yours are running; wait for one of them to end", "TOO_MANY_CALLS"
                )
            self._running.update(keys)
        try:
            yield
        finally:
            with self._lock:
                self._running.subtract(keys)
                self._running += Counter()  # drops zeros


class ReadDeadlines:
    """Cancels calls whose caller sends headers and then no message: one thread for all of them."""

    def __init__(self, read_s: float) -> None:
        self._read_s = read_s
        self._lock = threading.Lock()
        self._waiting: dict[grpc.ServicerContext, float] = {}
        if read_s:
            threading.Thread(target=self._watch, name="read-deadlines", daemon=True).start()

    @contextlib.contextmanager
    def reading(self, context: grpc.ServicerContext) -> Iterator[None]:
        """While inside, the call waits for a message."""
        if not self._read_s:
            yield
            return
        with self._lock:
            self._waiting[context] = time.monotonic() + self._read_s
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(context, None)

    def _watch(self) -> None:
        while True:
            time.sleep(_TICK_S)
            now = time.monotonic()
            with self._lock:
                late = [context for context, end in self._waiting.items() if end <= now]
            for context in late:
                context.cancel()
