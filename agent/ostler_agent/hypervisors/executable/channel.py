"""A driver program as a process: calls with time limits, and containment of its faults.

A program that crashes, hangs or violates the protocol fails the calls that are pending, is killed with its process
group, and is started again, with a growing delay. Its VMs must be in sessions of their own.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import IO, Any

import structlog
from ostler_common.errors import DeadlineExceededError, OstlerError, UnavailableError

from ostler_agent.hypervisors.executable import protocol
from ostler_agent.hypervisors.executable.protocol import ProtocolError
from ostler_agent.process import PIPE, Child, spawn

log = structlog.get_logger(__name__)

CALL_TIMEOUT_S = 15.0
RESTART_DELAYS_S = (0.0, 0.2, 1.0, 5.0)
STABLE_S = 30.0  # a program that ran so long is restarted at once
_MAX_STDERR_LINE = 1000


class Channel:
    """The connection to one driver program. Thread-safe.

    hello: the arguments of the first call; restarted: called after each restart, from the channel's thread.
    """

    def __init__(
        self, command: Sequence[str], hello: Mapping[str, Any], restarted: Callable[[], None] = lambda: None
    ) -> None:
        self._command = list(command)
        self._hello = hello
        self._restarted = restarted
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._pending: dict[int, Future[Any]] = {}
        self._next_id = 1
        self._input: int | None = None
        self._child: Child | None = None
        self._failure = "it is starting"
        self._killed_because = ""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="driver-program", daemon=True)

    def open(self) -> None:
        """Starts the program in the background."""
        self._thread.start()

    def close(self) -> None:
        """Ends the program: closes its input, and kills it if that does not help."""
        with self._lock:
            self._closing = True
            self._close_input()
            self._changed.notify_all()
        self._thread.join(2)
        self._kill("the agent stops")
        self._thread.join()

    def call(self, name: str, args: Mapping[str, Any], timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Calls the program and returns the result.

        Raises the program's error; DeadlineExceededError DRIVER_TIMEOUT; UnavailableError DRIVER_UNAVAILABLE if the
        program does not run, ends, or violates the protocol.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while self._input is None:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._closing:
                    raise self._unavailable()
                self._changed.wait(left_s)
            number, future = self._register()
            self._send(protocol.request(number, name, args))
        try:
            return future.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeout:
            self._kill(f"it did not answer the call {name} within {timeout_s:g} s")
            raise DeadlineExceededError(
                f"the driver program {self._command[0]} did not answer the call {name} within {timeout_s:g} s "
                "(it was restarted; VMs keep running)",
                "DRIVER_TIMEOUT",
            ) from None
        finally:
            with self._lock:
                self._pending.pop(number, None)

    # -- the channel's thread

    def _run(self) -> None:
        delay = 0
        while not self._wait_to_start(RESTART_DELAYS_S[delay]):
            began, self._killed_because = time.monotonic(), ""
            try:
                self._serve()
            except ProtocolError as error:
                self._failure = self._killed_because or str(error)
            except OstlerError as error:
                self._failure = error.message
            except OSError as error:
                self._failure = str(error)
            self._fail_pending()
            if self._closing:
                return
            log.error("driver program ended; it is restarted", command=self._command, reason=self._failure)
            delay = 0 if time.monotonic() - began > STABLE_S else min(delay + 1, len(RESTART_DELAYS_S) - 1)

    def _wait_to_start(self, seconds: float) -> bool:
        """Returns whether to end instead."""
        with self._lock:
            self._changed.wait_for(lambda: self._closing, seconds)
            return self._closing

    def _serve(self) -> None:
        """Runs the program to its end. Raises ProtocolError, OstlerError, OSError."""
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        try:
            with spawn(self._command, stdin=theirs, stdout=PIPE) as child:
                os.close(theirs)
                theirs = -1
                assert child.stdout
                assert child.stderr
                os.set_blocking(ours, False)
                threading.Thread(target=_log_lines, args=(child.stderr,), daemon=True).start()
                self._child = child
                os.write(ours, protocol.request(0, "hello", self._hello))
                self._greet(child.stdout)
                with self._lock:
                    self._input, ours = ours, -1
                    self._changed.notify_all()
                self._restarted()
                while line := _read_line(child.stdout):
                    self._receive(line)
                raise ProtocolError(self._killed_because or _how_it_ended(child))
        finally:
            for descriptor in (theirs, ours):
                if descriptor >= 0:
                    os.close(descriptor)
            with self._lock:
                self._child = None
                self._close_input()

    def _greet(self, output: IO[bytes]) -> None:
        timer = threading.Timer(CALL_TIMEOUT_S, self._kill, ("it did not answer hello",))
        timer.start()
        try:
            line = _read_line(output)
        finally:
            timer.cancel()
        if not line:
            raise ProtocolError("it ended before it answered hello")
        reply = protocol.parse_reply(line)
        if reply.error:
            raise reply.error

    def _receive(self, line: bytes) -> None:
        reply = protocol.parse_reply(line)
        with self._lock:
            future = self._pending.pop(reply.id, None)
        if future is None:
            log.warning("reply to a call that nobody waits for", command=self._command, id=reply.id)
        elif reply.error:
            future.set_exception(reply.error)
        else:
            future.set_result(reply.result)

    # -- inside

    def _register(self) -> tuple[int, Future[Any]]:
        number, future = self._next_id, Future[Any]()
        self._next_id += 1
        self._pending[number] = future
        return number, future

    def _send(self, line: bytes) -> None:
        """The caller holds the lock. A program that does not read fails at the time limit of its calls."""
        assert self._input is not None
        try:
            if os.write(self._input, line) != len(line):
                raise BlockingIOError
        except OSError:
            self._close_input()
            self._signal()
            raise self._unavailable() from None

    def _close_input(self) -> None:
        if self._input is not None:
            os.close(self._input)
            self._input = None

    def _kill(self, why: str) -> None:
        with self._lock:
            self._killed_because = why
            self._close_input()  # further calls wait for the next start
        self._signal()

    def _signal(self) -> None:
        child = self._child
        if child:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _fail_pending(self) -> None:
        with self._lock:
            pending, self._pending = list(self._pending.values()), {}
        for future in pending:
            future.set_exception(self._unavailable())

    def _unavailable(self) -> UnavailableError:
        return UnavailableError(
            f"the driver program {self._command[0]} is not available: {self._failure}", "DRIVER_UNAVAILABLE"
        )


def _read_line(output: IO[bytes]) -> bytes:
    """One line, b"" at the end. Raises ProtocolError if it is too long."""
    line = output.readline(protocol.MAX_LINE_BYTES + 1)
    if len(line) > protocol.MAX_LINE_BYTES:
        raise ProtocolError(f"a line is longer than {protocol.MAX_LINE_BYTES} bytes")
    return line


def _log_lines(errors: IO[bytes]) -> None:
    """Logs what a program writes to its stderr."""
    try:
        while line := errors.readline(_MAX_STDERR_LINE):
            log.info("driver program", stderr=line.decode(errors="replace").rstrip())
    except (OSError, ValueError):
        pass  # the program has ended


def _how_it_ended(child: Child) -> str:
    deadline = time.monotonic() + 1
    while (code := child.poll()) is None:
        if time.monotonic() > deadline:
            return "it closed its output"
        time.sleep(0.01)
    return f"it exited with {code}" if code >= 0 else f"it was killed by {signal.Signals(-code).name}"
