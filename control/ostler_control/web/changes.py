"""Says when something has changed in the fleet: one stream of the API's events, for all pages that are followed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ostler.control.v1.event_pb2 import WatchEventsRequest, WatchEventsResponse
from ostler_common.errors import OstlerError

if TYPE_CHECKING:
    from grpc import _CallIterator

# Until the stream is opened again.
PAUSE_S = 2.0


class Changes:
    """number: counts events; is_heard: whether the stream is there, so that its silence means that nothing happens."""

    def __init__(self, watch: Callable[[WatchEventsRequest], _CallIterator[WatchEventsResponse]]) -> None:
        """watch: opens the stream."""
        self.number = 0
        self.is_heard = False
        self._watch = watch
        self._lock = threading.Lock()
        self._followers = 0
        self._ended = threading.Event()
        self._call: _CallIterator[WatchEventsResponse] | None = None

    @contextmanager
    def followed(self) -> Iterator[Changes]:
        """The stream is open as long as somebody is inside."""
        with self._lock:
            self._followers += 1
            if self._followers == 1:
                self._ended = threading.Event()
                threading.Thread(target=self._listen, args=(self._ended,), name="changes", daemon=True).start()
        try:
            yield self
        finally:
            with self._lock:
                self._followers -= 1
                if not self._followers:
                    self._ended.set()
                    if self._call is not None:
                        self._call.cancel()

    def _listen(self, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                call = self._open(ended)
                for answer in call:
                    self.is_heard = True  # the first answer is a sign of life
                    self.number += answer.HasField("event")
            except OstlerError:  # the pages themselves say why
                pass
            finally:
                self.is_heard = False
            ended.wait(PAUSE_S)

    def _open(self, ended: threading.Event) -> _CallIterator[WatchEventsResponse]:
        with self._lock:
            call = self._watch(WatchEventsRequest())
            if ended.is_set():
                call.cancel()
            else:
                self._call = call
        return call
