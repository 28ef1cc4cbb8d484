"""Unix sockets in a VM's directory, whose path may exceed the 107 bytes of a socket address."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def listen(directory: Path, name: str) -> socket.socket:
    """Creates a listening socket, which QEMU inherits: clients can connect from the start."""
    (directory / name).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    with _short(directory, name) as address:
        server.bind(address)
    server.listen(1)
    return server


def connect(directory: Path, name: str) -> socket.socket:
    """Raises OSError."""
    client = socket.socket(socket.AF_UNIX)
    try:
        with _short(directory, name) as address:
            client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


@contextmanager
def _short(directory: Path, name: str) -> Iterator[str]:
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{name}"
    finally:
        os.close(handle)
