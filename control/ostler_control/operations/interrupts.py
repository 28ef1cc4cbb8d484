"""How a cancel, or the end of the process, reaches work that waits for a host."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass


class StoppedError(BaseException):
    """The process ends, or another one has taken the operation over: leave the operation as it is, to be resumed.

    Not an Exception, so that no handler mistakes it for the operation's failure.
    """


@dataclass(frozen=True)
class _Job:
    operation_id: str
    cancel: Callable[[], None]
    stop: Callable[[], None]


class Interrupts:
    """The jobs on hosts for which this process waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: set[_Job] = set()
        self.stopping = threading.Event()

    @contextlib.contextmanager
    def job(self, operation_id: str, cancel: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
        """While inside: `cancel` is called (perhaps often) once the operation is to be cancelled, `stop` at the end of
        the process. Both must return at once."""
        job = _Job(operation_id, cancel, stop)
        with self._lock:
            self._jobs.add(job)
        try:
            if self.stopping.is_set():
                raise StoppedError
            yield
        finally:
            with self._lock:
                self._jobs.discard(job)

    def sleep(self, seconds: float) -> None:
        """Sleeps; raises StoppedError when the process ends."""
        if self.stopping.wait(seconds):
            raise StoppedError

    def waiting(self) -> set[str]:
        """Operations that wait for a host."""
        with self._lock:
            return {job.operation_id for job in self._jobs}

    def cancel(self, operation_id: str) -> None:
        """Cancels the operation's jobs."""
        for job in self._matching(operation_id):
            job.cancel()

    def stop(self) -> None:
        """Makes every wait end."""
        self.stopping.set()
        for job in self._matching(None):
            job.stop()

    def _matching(self, operation_id: str | None) -> list[_Job]:
        with self._lock:
            return [job for job in self._jobs if operation_id in (None, job.operation_id)]
