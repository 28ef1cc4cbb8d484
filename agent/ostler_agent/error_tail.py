"""The error output of a program that runs in the background: read all the time, so that the program never waits for a
reader, and kept no further than its end."""

from __future__ import annotations

import os
import selectors
import threading
from types import TracebackType
from typing import IO, Self

MAX_TAIL_BYTES = 64 << 10
_PIPE_BYTES = 64 << 10  # as much as Linux keeps in a pipe


class ErrorTail:
    """Reads a pipe from a thread of its own while the block lasts."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe.fileno()
        self._kept = b""
        self._ended = False
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._drain, name="error-tail", daemon=True)

    def __enter__(self) -> Self:
        os.set_blocking(self._pipe, False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._read()
        self._ended = True  # the pipe may be closed from now on
        os.close(self._wake)

    def text(self) -> str:
        """The end of what the program has said until now."""
        self._read()
        return self._kept.decode(errors="replace")

    def _drain(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            selector.register(self._pipe, selectors.EVENT_READ)
            while self._wake not in {key.fd for key, _ in selector.select()} and self._read():
                pass

    def _read(self) -> bool:
        """Reads what is there; returns whether more may come."""
        with self._lock:
            if self._ended:
                return False
            try:
                piece = os.read(self._pipe, _PIPE_BYTES)
            except BlockingIOError:
                return True
            self._kept = (self._kept + piece)[-MAX_TAIL_BYTES:]
            return bool(piece)
