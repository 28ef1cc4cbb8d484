"""The connection to libvirtd, which reconnects when the daemon is available again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import libvirt
import structlog

from ostler_agent.hypervisors.libvirt.errors import to_ostler_error

log = structlog.get_logger(__name__)

KEEPALIVE_S, KEEPALIVE_MISSES = 5, 5
RETRY_S = (0.2, 0.5, 1, 2, 5)

# Receives a new connection and whether it replaces an earlier one; its result is called before the connection closes.
Opened = Callable[[Any, bool], Callable[[], None]]

_loop_started = False
_loop_lock = threading.Lock()


def _start_event_loop() -> None:
    """Starts libvirt's event loop, one thread per process; required before the first connection."""
    global _loop_started
    with _loop_lock:
        if _loop_started:
            return
        libvirt.virEventRegisterDefaultImpl()
        # Errors are raised; without this, libvirt also prints them to stderr.
        libvirt.registerErrorHandler(lambda context, error: None, None)
        threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True).start()
        _loop_started = True


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


class Connection:
    """A connection that opens at its first use and reconnects after a failure.

    opened: called with each new connection before its first use.
    """

    def __init__(self, uri: str, opened: Opened) -> None:
        self._uri = uri
        self._opened = opened
        self._connection: Any = None
        self._release: Callable[[], None] = lambda: None
        self._ever_opened = False
        self._lock = threading.Lock()
        self._broken = threading.Event()
        self._closing = False
        self._reconnector = threading.Thread(target=self._reconnect, name="libvirt-connection", daemon=True)

    def open(self) -> None:
        """Connects in the background, and retries until the daemon is available."""
        _start_event_loop()
        self._broken.set()
        self._reconnector.start()

    def get(self) -> Any:
        """Returns the open virConnect. Raises UnavailableError LIBVIRT_UNAVAILABLE."""
        connection = self._connection
        if _is_usable(connection):
            return connection
        with self._lock:
            # It may have failed before it was stored here: then its close callback had nothing to clear.
            if not _is_usable(self._connection):
                try:
                    self._connection = self._open()
                except libvirt.libvirtError as error:
                    raise to_ostler_error(error, f"connecting to libvirt at {self._uri}") from error
            return self._connection

    def close(self) -> None:
        """Closes the connection permanently."""
        self._closing = True
        self._broken.set()
        with self._lock:
            if self._connection is None:
                return
            try:
                # Registered callbacks would keep the connection open.
                self._connection.unregisterCloseCallback()
                self._release()
                self._connection.close()
            except libvirt.libvirtError as error:
                log.info("libvirt disconnected first", error=error.get_error_message())
            self._connection = None

    def _open(self) -> Any:
        _start_event_loop()
        connection = libvirt.open(self._uri)
        try:
            connection.registerCloseCallback(self._closed, None)
            try:
                connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_MISSES)
            except libvirt.libvirtError:
                pass  # drivers without a daemon have no keepalive
            self._release = self._opened(connection, self._ever_opened)
        except BaseException:
            connection.close()
            raise
        self._ever_opened = True
        return connection

    def _closed(self, connection: Any, reason: int, opaque: object) -> None:
        """Called by the event loop's thread, which must not block: the reconnecting thread does the rest."""
        log.warning("lost the connection to libvirt", reason=reason)
        if self._connection is connection:
            self._connection = None
        self._broken.set()

    def _reconnect(self) -> None:
        while True:
            self._broken.wait()
            self._broken.clear()
            for delay_s in chain(RETRY_S, repeat(RETRY_S[-1])):
                if self._closing:
                    return
                try:
                    self.get()
                    break
                except Exception as error:
                    log.info("cannot reach libvirt yet", error=str(error))
                    self._broken.wait(delay_s)


def _is_usable(connection: Any) -> bool:
    """Whether the connection is open, as far as known locally."""
    return connection is not None and bool(connection.isAlive())
