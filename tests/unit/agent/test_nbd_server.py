"""The NBD server for bytes that only Python can read, as a client meets it."""

from __future__ import annotations

import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ostler_agent.tools import nbd_server
from ostler_common.errors import UnavailableError

DATA = bytes(range(256)) * 8
EIO, EINVAL = 5, 22


class Bytes:
    """What is served; a read of the last byte fails."""

    size_bytes = len(DATA)

    def read(self, offset: int, count: int) -> bytes:
        if offset + count == len(DATA):
            raise UnavailableError("the connection was cut", "TLS_FAILED")
        return DATA[offset : offset + count]


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # sockets have short names
        yield Path(name, "sock")


@contextmanager
def client(path: Path) -> Iterator[socket.socket]:
    """A client that has read the greeting and said hello."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(30)
        connected.connect(str(path))
        assert receive(connected, 18) == b"NBDMAGICIHAVEOPT\0\3"
        connected.sendall(struct.pack(">I", 3))
        yield connected


def receive(connected: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connected.recv(count - len(data))
        assert piece, f"the server hung up after {data!r}"
        data += piece
    return data


def option(connected: socket.socket, number: int, data: bytes = b"") -> tuple[int, bytes]:
    """Asks for an option; the kind and the data of the first reply."""
    connected.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)
    magic, echoed, kind, length = struct.unpack(">QIII", receive(connected, 20))
    assert (magic, echoed) == (0x3E889045565A9, number)
    return kind, receive(connected, length)


def go(connected: socket.socket) -> None:
    kind, info = option(connected, 7, struct.pack(">I", 4) + b"disk" + struct.pack(">H", 0))
    assert (kind, info) == (3, struct.pack(">HQH", 0, len(DATA), 3)), "its size, and that it is read-only"
    assert receive(connected, 20)[12:16] == struct.pack(">I", 1)


def request(connected: socket.socket, command: int, offset: int, count: int) -> tuple[int, bytes]:
    """The error and the data of a request."""
    connected.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 77, offset, count))
    magic, error, cookie = struct.unpack(">IIQ", receive(connected, 16))
    assert (magic, cookie) == (0x67446698, 77)
    return error, b"" if error else receive(connected, count)


def test_bytes_are_read_and_nothing_else_is_done(path: Path) -> None:
    with nbd_server.serve(Bytes(), path):
        for _ in range(2):  # one client after the other
            with client(path) as connected:
                assert option(connected, 8)[0] == 1 << 31 | 1, "structured replies are not offered"
                go(connected)
                assert request(connected, 0, 3, 500) == (0, DATA[3:503])
                assert request(connected, 1, 0, 0) == (EINVAL, b""), "a write"
                assert request(connected, 0, len(DATA) - 1, 2) == (EINVAL, b""), "beyond the end"
                assert request(connected, 0, 0, 33 << 20) == (EINVAL, b""), "more than is read at once"
                assert request(connected, 0, len(DATA) - 1, 1) == (EIO, b""), "what cannot be read"
                assert request(connected, 0, 0, 1) == (0, DATA[:1]), "it goes on after an error"
    assert not path.exists()


def test_a_client_of_the_old_kind_is_served(path: Path) -> None:
    with nbd_server.serve(Bytes(), path), client(path) as connected:
        connected.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 4) + b"disk")
        assert receive(connected, 10) == struct.pack(">QH", len(DATA), 3)
        assert request(connected, 0, 0, 4) == (0, DATA[:4])


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", b"IHAVEOPT" + struct.pack(">II", 7, 1 << 30)])
def test_who_speaks_something_else_is_hung_up_on_and_the_next_one_served(path: Path, said: bytes) -> None:
    with nbd_server.serve(Bytes(), path):
        with client(path) as connected:
            connected.sendall(said)
            assert connected.recv(1) == b""
        with client(path) as connected:
            go(connected)


def test_the_end_does_not_wait_for_a_client_that_is_silent(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(30)
        with nbd_server.serve(Bytes(), path):
            silent.connect(str(path))
            assert receive(silent, 8) == b"NBDMAGIC"
        assert receive(silent, 10) == b"IHAVEOPT\0\3"
        assert silent.recv(1) == b"", "it was hung up on"
