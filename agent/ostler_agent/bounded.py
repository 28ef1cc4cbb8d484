"""Calls that may hang, some for ever, as those that touch the storage of another machine."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class BoundedCalls:
    """Calls whose callers wait for a limited time. Thread-safe.

    While a call about a subject hangs for longer than that, further ones about that subject fail at once. So a subject
    that hangs holds few threads, however often it is asked for.
    """

    def __init__(self, name: str = "storage") -> None:
        """name: of the threads."""
        self._name = name
        self._lock = threading.RLock()
        self._hanging: Counter[str] = Counter()

    def call(self, subject: str, work: Callable[[], T], timeout_s: float) -> T:
        """What `work` returns or raises. Raises TimeoutError; the call then goes on by itself."""
        with self._lock:
            if self._hanging[subject]:
                raise TimeoutError
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(work())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=run, name=self._name, daemon=True).start()
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            if not answer.done():
                with self._lock:
                    self._hanging[subject] += 1
                answer.add_done_callback(lambda _: self._returned(subject))
            raise

    def _returned(self, subject: str) -> None:
        with self._lock:
            self._hanging[subject] -= 1
            self._hanging += Counter()  # drops zeros
