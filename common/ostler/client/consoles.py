"""A VM's serial console, joined again when the connection to the control plane breaks; and its screen."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ostler_common.errors import CancelledError, FailedPreconditionError, OstlerError, UnavailableError

from ostler.client import reaching
from ostler.control.v1.vm_pb2 import ConsoleInput, ConsoleOutput

# A first attempt that fails sooner is a failure to connect.
_JOINED_S = 5.0

if TYPE_CHECKING:
    from grpc import _CallIterator

    from ostler.control.v1.vm_pb2_grpc import VmServiceStub


class ConsoleStream:
    """A VM's console: an iterator of what the guest prints, and `type` for what is sent to it.

    When the connection breaks it is opened again, through another replica where there is one, for a minute. What the
    guest prints meanwhile is lost (its log has it), and so may be what was typed in that moment. Raises the OstlerError
    that the console cannot be opened with or ends with.
    """

    def __init__(
        self,
        stub: VmServiceStub,
        vm: str,
        force: bool = False,
        timeout_s: float | None = None,
        on_silence: Callable[[], None] | None = None,
    ) -> None:
        """force: takes it over from whoever has it. on_silence: is called before each attempt to open it again."""
        self._stub, self._vm, self._force = stub, vm, force
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._on_silence = on_silence
        self._lock = threading.Lock()
        self._typed: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closed = False
        self._call = self._open()

    def type(self, data: bytes) -> None:
        """Sends bytes to the guest."""
        with self._lock:
            self._typed.put(data)

    def waiting(self) -> int:
        """How many of the typed pieces have not been sent yet."""
        return self._typed.qsize()

    def end_input(self) -> None:
        """Tells the guest's side that nothing follows; what was typed before is still sent."""
        with self._lock:
            self._typed.put(None)

    def close(self) -> None:
        """Ends the stream; iterating ends too."""
        with self._lock:
            self._closed = True
            self._typed.put(None)
            self._call.cancel()

    def __iter__(self) -> Iterator[bytes]:
        heard_s = time.monotonic()
        is_joined = is_reopened = False
        while True:
            asked_s = time.monotonic()
            try:
                for output in self._call:
                    heard_s, is_joined, is_reopened = time.monotonic(), True, False
                    yield output.data
                return
            except OstlerError as error:
                if self._closed:
                    return
                if not is_joined and time.monotonic() - asked_s > _JOINED_S:  # of a guest that prints nothing
                    heard_s, is_joined = time.monotonic(), True
                # The host may take the broken connection for the one that has the console, until it notices.
                lost = _is_broken(error) or (is_reopened and _is_busy(error))
                if not lost or not is_joined or asked_s - heard_s > reaching.SILENCE_S:
                    raise
            if self._on_silence is not None:
                self._on_silence()
            time.sleep(reaching.PAUSE_S)
            self._reopen()
            is_reopened = True

    def _open(self) -> _CallIterator[ConsoleOutput]:
        left_s = None if self._end_s is None else max(0.0, self._end_s - time.monotonic())
        return self._stub.Console(_inputs(self._vm, self._force, self._typed), timeout=left_s)

    def _reopen(self) -> None:
        with self._lock:
            if self._closed:
                return
            old, self._typed = self._typed, queue.SimpleQueue()
            while not old.empty():  # what was typed while nothing could be sent
                self._typed.put(old.get())
            old.put(None)  # ends the broken call's thread
            self._force = False
            self._call = self._open()


class ScreenStream:
    """A VM's screen, in the protocol of VNC (RFC 6143): an iterator of what the screen sends, and `type` for what the
    viewer sends. A broken connection ends it, for the protocol cannot be joined in the middle."""

    def __init__(self, stub: VmServiceStub, vm: str, force: bool = False) -> None:
        """force: takes it over from whoever has it."""
        self._typed: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closed = False
        self._call = stub.Screen(_inputs(vm, force, self._typed))

    def type(self, data: bytes) -> None:
        """Sends a viewer's bytes."""
        self._typed.put(data)

    def waiting(self) -> int:
        """How many of the viewer's pieces have not been sent yet."""
        return self._typed.qsize()

    def close(self) -> None:
        """Ends the stream; iterating ends too."""
        self._closed = True
        self._typed.put(None)
        self._call.cancel()

    def __iter__(self) -> Iterator[bytes]:
        try:
            for output in self._call:
                if output.data:  # the first says only that it is open
                    yield output.data
        except OstlerError:
            if not self._closed:
                raise


def _inputs(vm: str, force: bool, typed: queue.SimpleQueue[bytes | None]) -> Iterator[ConsoleInput]:
    yield ConsoleInput(vm=vm, force=force)
    while (data := typed.get()) is not None:
        yield ConsoleInput(data=data)


def _is_broken(error: OstlerError) -> bool:
    """Whether the connection failed, and not the console."""
    return error.reason == "RPC" and isinstance(error, UnavailableError | CancelledError)


def _is_busy(error: OstlerError) -> bool:
    return isinstance(error, FailedPreconditionError) and error.reason == "CONSOLE_BUSY"
