"""The terminal of a container, which nobody who looks at it can end."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ostler_nspawn_driver.console_server import ConsoleServer

CONSOLE = "console"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ConsoleServer]:
    server = ConsoleServer(tmp_path, CONSOLE)
    yield server
    server.close()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def connect(directory: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(directory / CONSOLE))
    client.settimeout(5)
    return client


def write(server: ConsoleServer, text: bytes) -> None:
    """Prints in the container, and waits until the server can read it."""
    os.write(server.terminal, text)
    assert select.select([server._ours], [], [], 5)[0]


def play(server: ConsoleServer, *steps: Callable[[], None]) -> None:
    """Lets the server relay what each step makes ready, one step after the other."""
    left = iter(steps)

    def ended() -> str | None:
        step = next(left, None)
        if step is None:
            return "over"
        step()
        return None

    assert server.serve(ended) == "over"


def test_a_viewer_that_leaves_while_the_container_prints(server: ConsoleServer, tmp_path: Path) -> None:
    """Both are ready at once: the print finds the viewer gone, before its end was read."""
    viewer = connect(tmp_path)

    def print_and_leave() -> None:
        write(server, b"tick 1\n")
        viewer.close()

    def look_again() -> None:
        nonlocal viewer
        viewer = connect(tmp_path)

    play(server, lambda: None, print_and_leave, look_again, lambda: write(server, b"tick 2\n"))
    assert viewer.recv(100) == b"tick 2\r\n"
    viewer.close()


def test_a_new_viewer_takes_over_from_one_that_types(server: ConsoleServer, tmp_path: Path) -> None:
    """Both are ready at once: what the old one typed is not awaited from the new one, which stays."""
    old, new = connect(tmp_path), None

    def take_over() -> None:
        nonlocal new
        new = connect(tmp_path)
        old.send(b"x")

    play(server, lambda: None, take_over, lambda: write(server, b"tick 1\n"))
    assert new is not None
    assert new.recv(100) == b"tick 1\r\n"
    old.close()
    new.close()
