"""A container's terminal, for whoever connects to a Unix socket."""

from __future__ import annotations

import os
import pty
import selectors
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_CHUNK_BYTES = 64 * 1024
_POLL_S = 1.0  # at most, until a signal or an end is noticed


class ConsoleServer:
    """Relays between the terminal and the last one who connected. Without one, what is printed is gone."""

    def __init__(self, directory: Path, name: str) -> None:
        self._ours, self.terminal = pty.openpty()
        os.set_blocking(self._ours, False)
        self._address = directory / name
        self._address.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        # An address has at most 107 characters: bind relative to the directory.
        parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._listener.bind(f"/proc/self/fd/{parent}/{name}")
        os.close(parent)
        self._listener.listen(16)
        self._client: socket.socket | None = None
        self._greeting = b""
        self._selector = selectors.DefaultSelector()

    def say(self, text: bytes) -> None:
        """What everybody who connects reads first."""
        self._greeting = text

    def serve(self, ended: Callable[[], str | None]) -> str:
        """Relays until `ended` returns something, and returns that."""
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        self._selector.register(wake, selectors.EVENT_READ, lambda: os.read(wake, _CHUNK_BYTES))
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._ours, selectors.EVENT_READ, self._print)
        while (how := ended()) is None:
            for key, _ in self._selector.select(_POLL_S):
                key.data()
        self._print()
        return how

    def close(self) -> None:
        self._drop()
        self._listener.close()
        self._address.unlink(missing_ok=True)

    def _accept(self) -> None:
        self._drop()
        client, _ = self._listener.accept()
        client.setblocking(False)
        self._client = client
        self._selector.register(client, selectors.EVENT_READ, lambda: self._type(client))
        if self._greeting:
            self._send(self._greeting)

    def _type(self, client: socket.socket) -> None:
        if client is not self._client:  # it was dropped after the selector had found it ready
            return
        data = b""
        with suppress(OSError):
            data = client.recv(_CHUNK_BYTES)
        if not data:
            self._drop()
            return
        with suppress(OSError):  # a container that does not read loses input, as on a serial line
            os.write(self._ours, data)

    def _print(self) -> None:
        with suppress(OSError):  # the container has closed its end
            self._send(os.read(self._ours, _CHUNK_BYTES))

    def _send(self, data: bytes) -> None:
        """A reader that does not keep up loses output, as on a serial line: the container never waits for one."""
        if self._client:
            try:
                self._client.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self._drop()

    def _drop(self) -> None:
        if self._client:
            self._selector.unregister(self._client)
            self._client.close()
            self._client = None
