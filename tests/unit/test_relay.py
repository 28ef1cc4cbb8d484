"""The relay of the tests tells each end that the other one is gone, unless its network is dead."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.fakes.relay import Relay

ABORT = struct.pack("ii", 1, 0)  # closing sends a reset


@pytest.fixture
def ends() -> Iterator[tuple[Relay, socket.socket, socket.socket]]:
    """The relay, the caller's end and the server's."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        relay = Relay(server.getsockname()[1])
        stack.callback(relay.close)
        caller = stack.enter_context(socket.create_connection(("127.0.0.1", relay.port), 10))
        served = stack.enter_context(server.accept()[0])
        caller.sendall(b"asks")
        assert served.recv(100) == b"asks"
        yield relay, caller, served


@pytest.mark.parametrize("reset", [False, True])
def test_a_server_that_ends_is_heard(ends: tuple[Relay, socket.socket, socket.socket], reset: bool) -> None:
    _, caller, served = ends
    if reset:
        served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    served.close()
    assert caller.recv(100) == b""


def test_nothing_is_heard_through_a_dead_network(ends: tuple[Relay, socket.socket, socket.socket]) -> None:
    relay, caller, served = ends
    relay.cut()
    served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    served.close()
    caller.settimeout(0.3)
    with pytest.raises(TimeoutError):
        caller.recv(100)
    relay.heal()
    with pytest.raises(TimeoutError):
        caller.recv(100)
