"""A read-only NBD server on a Unix socket, for bytes that only Python can read; one export, which has every name.

The newstyle handshake and simple replies: all that QEMU asks for. Protocol: doc/proto.md of the NBD project.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

MAX_READ_BYTES = 32 << 20  # QEMU's own limit
_MAX_OPTION_BYTES = 8 << 10
_EIO, _EINVAL = 5, 22
_MAGIC, _OPTION_MAGIC, _REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_READ_ONLY = 1 | 2  # there are flags, and no writes
_EXPORT_NAME, _ABORT, _INFO, _GO = 1, 2, 6, 7
_ACK, _EXPORT_INFO, _UNSUPPORTED = 1, 3, 1 << 31 | 1
_REQUEST, _REQUEST_MAGIC = struct.Struct(">IHHQQI"), 0x25609513
_SIMPLE_REPLY, _SIMPLE_REPLY_MAGIC = struct.Struct(">IIQ"), 0x67446698
_READ, _DISCONNECT = 0, 2


class Source(Protocol):
    """What is served."""

    @property
    def size_bytes(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes:
        """All these bytes, which are within the size. Whatever it raises, the client gets an I/O error."""


@contextmanager
def serve(source: Source, path: Path) -> Iterator[None]:
    """Serves clients, one after the other, while the block lasts. path: must not exist."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
        listener.bind(str(path))
        listener.listen()
        server = _Server(source, listener)
        thread = threading.Thread(target=server.run, name="nbd-server", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.stop()
            thread.join()
            path.unlink(missing_ok=True)


class _EndedError(Exception):
    """The client has gone, or speaks something else."""


class _Server:
    def __init__(self, source: Source, listener: socket.socket) -> None:
        self._source = source
        self._listener = listener
        self._lock = threading.Lock()
        self._client: socket.socket | None = None
        self._stopped = False

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # `stop` shuts it down
                return
            with client:
                with self._lock:
                    if self._stopped:
                        return
                    self._client = client
                try:
                    if self._negotiate(client):
                        self._transmit(client)
                except (OSError, _EndedError):
                    continue
                finally:
                    with self._lock:
                        self._client = None

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for open_socket in (self._listener, self._client):
                if open_socket is not None:
                    with contextlib.suppress(OSError):
                        open_socket.shutdown(socket.SHUT_RDWR)

    def _negotiate(self, client: socket.socket) -> bool:
        """Whether the client has chosen the export."""
        client.sendall(_MAGIC + _OPTION_MAGIC + struct.pack(">H", _FIXED_NEWSTYLE | _NO_ZEROES))
        (flags,) = struct.unpack(">I", _receive(client, 4))
        while True:
            magic, option, length = struct.unpack(">8sII", _receive(client, 16))
            if magic != _OPTION_MAGIC or length > _MAX_OPTION_BYTES:
                raise _EndedError
            _receive(client, length)  # the export's name, and what the client wants to know of it
            size = struct.pack(">QH", self._source.size_bytes, _READ_ONLY)
            if option == _EXPORT_NAME:
                client.sendall(size + (b"" if flags & _NO_ZEROES else bytes(124)))
                return True
            if option in (_INFO, _GO):
                _answer(client, option, _EXPORT_INFO, b"\0\0" + size)
            _answer(client, option, _ACK if option in (_INFO, _GO, _ABORT) else _UNSUPPORTED)
            if option == _GO:
                return True
            if option == _ABORT:
                return False

    def _transmit(self, client: socket.socket) -> None:
        while True:
            magic, _, command, cookie, offset, count = _REQUEST.unpack(_receive(client, _REQUEST.size))
            if magic != _REQUEST_MAGIC or command == _DISCONNECT:
                return
            error, data = self._read(command, offset, count)
            client.sendall(_SIMPLE_REPLY.pack(_SIMPLE_REPLY_MAGIC, error, cookie) + data)

    def _read(self, command: int, offset: int, count: int) -> tuple[int, bytes]:
        """The error, 0 for none, and the bytes."""
        if command != _READ or not 0 < count <= MAX_READ_BYTES or offset + count > self._source.size_bytes:
            return _EINVAL, b""
        try:
            return 0, self._source.read(offset, count)
        except Exception as error:  # the client is told; the source knows why
            log.warning("a disk of another host cannot be read", reason=str(error))
            return _EIO, b""


def _answer(client: socket.socket, option: int, kind: int, data: bytes = b"") -> None:
    client.sendall(struct.pack(">QIII", _REPLY_MAGIC, option, kind, len(data)) + data)


def _receive(client: socket.socket, count: int) -> bytes:
    """Exactly so many bytes. Raises _EndedError."""
    data = bytearray()
    while len(data) < count:
        piece = client.recv(count - len(data))
        if not piece:
            raise _EndedError
        data += piece
    return bytes(data)
