"""Streams of the API that take long: read in threads of their own, and ended when the browser leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread
from ostler_common.errors import AbortedError, ResourceExhaustedError
from starlette.types import Receive

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

# At once. Each holds a thread, and none of the pages' threads.
MAX_READINGS = 8
# Who leaves one reading for the next finds the backup still busy with the first for a moment.
BUSY_S, BUSY_STEP_S = 5.0, 0.25


class Call(Protocol[A_co]):
    """A stream of answers."""

    def __iter__(self) -> Iterator[A_co]: ...
    def cancel(self) -> object: ...


class Reading(Generic[A]):
    """The answers of a call, which is opened when they are asked for, in that thread."""

    def __init__(self, open_call: Callable[[], Call[A]]) -> None:
        self._open_call = open_call
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._call: Call[A] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it was cancelled."""
        return self._over.is_set()

    def cancel(self) -> None:
        """Ends it. Who waits for an answer gets CancelledError."""
        with self._lock:
            self._over.set()
            if self._call is not None:
                self._call.cancel()

    def __iter__(self) -> Iterator[A]:
        end, begun = time.monotonic() + BUSY_S, False
        while True:
            try:
                for answer in self._open():
                    begun = True
                    yield answer
                return
            except AbortedError as error:
                if begun or error.reason != "RESOURCE_BUSY" or time.monotonic() > end or self._over.wait(BUSY_STEP_S):
                    raise

    def _open(self) -> Call[A]:
        with self._lock:
            self._call = self._open_call()
            if self._over.is_set():
                self._call.cancel()
            return self._call


class Readings:
    """Those under way."""

    def __init__(self) -> None:
        self._running = 0

    @asynccontextmanager
    async def running(self, open_call: Callable[[], Call[A]], receive: Receive) -> AsyncIterator[Reading[A]]:
        """A reading that ends with the block, and when the browser leaves.

        Raises ResourceExhaustedError TOO_MANY_READS.
        """
        if self._running >= MAX_READINGS:
            message = f"the console already reads files of {MAX_READINGS} backups (try again when one has ended)"
            raise ResourceExhaustedError(message, "TOO_MANY_READS")
        reading = Reading(open_call)
        self._running += 1
        leaving = asyncio.ensure_future(_cancel_when_left(reading, receive))
        try:
            yield reading
        finally:
            leaving.cancel()
            reading.cancel()
            self._running -= 1


async def in_thread(work: Callable[[], A]) -> A:
    """Runs what waits for answers of a reading."""
    return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=CapacityLimiter(1))


async def _cancel_when_left(reading: Reading[A], receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reading.cancel()
