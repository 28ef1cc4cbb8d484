"""Serial consoles and screens on Unix sockets, with one holder each."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from ostler_common.errors import AbortedError, FailedPreconditionError, UnavailableError

CHUNK_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 5.0
_RETRY_S = 0.05


class SocketConsole:
    """`base.Console` on a connected Unix socket. name: what it is of which VM, for people."""

    def __init__(self, name: str, connected: socket.socket) -> None:
        self._name = name
        self._ended = self._closed = self._taken = False
        self._socket = connected

    @property
    def is_held(self) -> bool:
        return not self._ended and not _is_hung_up(self._socket)

    def read(self) -> bytes:
        data = b""
        if not self._closed:  # what came before its holder closed it is nobody's
            with suppress(OSError):  # an error is the end, too
                data = self._socket.recv(CHUNK_BYTES)
        if not data:
            self.close()
            if self._taken:
                raise AbortedError(f"another caller took over {self._name}", "CONSOLE_TAKEN")
        return data

    def write(self, data: bytes) -> None:
        with suppress(OSError):  # `read` reports the end
            self._socket.sendall(data)

    def close(self) -> None:
        self._closed = True
        self.end()

    def end(self) -> None:
        """Ends the console; what the guest has printed can still be read."""
        self._ended = True
        with suppress(OSError):  # wakes a reader
            self._socket.shutdown(socket.SHUT_RDWR)

    def take_over(self) -> None:
        self._taken = True
        self.close()


def _connect(path: Path) -> socket.socket:
    """Raises OSError."""
    connected = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    # An address has at most 107 characters: connect relative to the directory.
    parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connected.setblocking(False)
        while True:
            try:
                connected.connect(f"/proc/self/fd/{parent}/{path.name}")
            except BlockingIOError:  # others wait to be accepted
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
                continue
            connected.setblocking(True)
            return connected
    except BaseException:
        connected.close()
        raise
    finally:
        os.close(parent)


def _is_hung_up(connected: socket.socket) -> bool:
    """Whether the other side has closed the connection, as when its VM has stopped."""
    poll = select.poll()
    poll.register(connected, select.POLLRDHUP)
    return bool(poll.poll(0))


class Consoles:
    """The holders of consoles, or of screens. what: one of them, for people."""

    def __init__(self, what: str = "console") -> None:
        self._what = what
        self._lock = threading.Lock()
        self._holders: dict[str, SocketConsole] = {}

    def open(self, vm_id: str, path: Path, force: bool) -> SocketConsole:
        """Raises FailedPreconditionError CONSOLE_BUSY, UnavailableError CONSOLE_UNAVAILABLE."""
        with self._lock:
            self._free(vm_id, force)
            try:
                connected = _connect(path)
            except OSError as error:
                raise UnavailableError(
                    f"cannot connect to {self._name(vm_id)} at {path}: {error}", "CONSOLE_UNAVAILABLE"
                ) from error
            return self._hold(vm_id, connected)

    def hold(self, vm_id: str, connected: socket.socket, force: bool) -> SocketConsole:
        """Makes the caller the holder of a connection that others may have too; closes it if it raises.

        Raises FailedPreconditionError CONSOLE_BUSY.
        """
        with self._lock:
            try:
                self._free(vm_id, force)
            except FailedPreconditionError:
                connected.close()
                raise
            return self._hold(vm_id, connected)

    def _free(self, vm_id: str, force: bool) -> None:
        holder = self._holders.get(vm_id)
        if holder and holder.is_held:
            if not force:
                raise FailedPreconditionError(
                    f"{self._name(vm_id)} is in use (use force to take it over)", "CONSOLE_BUSY", {"vm": vm_id}
                )
            holder.take_over()

    def _hold(self, vm_id: str, connected: socket.socket) -> SocketConsole:
        held = self._holders[vm_id] = SocketConsole(self._name(vm_id), connected)
        return held

    def _name(self, vm_id: str) -> str:
        return f"the {self._what} of VM {vm_id}"

    def close_of(self, vm_id: str) -> None:
        """Ends the console of a VM that has stopped."""
        with self._lock:
            holder = self._holders.pop(vm_id, None)
        if holder:
            holder.end()

    def close(self) -> None:
        with self._lock:
            for holder in self._holders.values():
                holder.close()
