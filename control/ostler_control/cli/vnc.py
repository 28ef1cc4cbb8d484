"""A local socket for VNC viewers, which it joins to a VM's screen, one after the other."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from ostler.control.v1.vm_pb2 import ConsoleInput
from ostler_common.errors import FailedPreconditionError, OstlerError

from ostler_control.cli.app import App
from ostler_control.cli.failure import Failure

if TYPE_CHECKING:
    from ostler.control.v1.vm_pb2_grpc import VmServiceStub

LOOPBACK = "127.0.0.1"
READ_BYTES = 64 << 10
CONNECTIONS = Path("/proc/net/tcp")
_ESTABLISHED = "01"


@contextmanager
def listen(port: int, path: Path | None) -> Iterator[socket.socket]:
    """A socket at the path, which only its user can open, or on a port of loopback (0: a free one).

    Raises FailedPreconditionError PORT_UNAVAILABLE, SOCKET_UNAVAILABLE.
    """
    if path is None:
        if not CONNECTIONS.exists():
            raise FailedPreconditionError(
                "this system does not tell who connects to a port (use --socket)", "PORT_UNAVAILABLE"
            )
        with socket.socket(socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((LOOPBACK, port))
            except OSError as error:
                raise FailedPreconditionError(
                    f"cannot listen on {LOOPBACK}:{port}: {error.strerror}", "PORT_UNAVAILABLE", {"port": str(port)}
                ) from None
            listener.listen(1)
            yield listener
        return
    with socket.socket(socket.AF_UNIX) as listener:
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as error:
            why = "it exists already (delete it)" if path.exists() else str(error)
            raise FailedPreconditionError(
                f"cannot listen at {path}: {why}", "SOCKET_UNAVAILABLE", {"path": str(path)}
            ) from None
        finally:
            os.umask(mask)
        try:
            listener.listen(1)
            yield listener
        finally:
            path.unlink(missing_ok=True)


def serve(app: App, vm: str, force: bool, listener: socket.socket) -> None:
    """Joins one viewer after the other to the screen, for ever. What goes wrong with one is told."""
    while True:
        viewer, _ = listener.accept()
        with viewer:
            if viewer.family == socket.AF_INET and not is_own(viewer):
                click.echo("Another user of this machine tried to connect, and was refused.", err=True)
                continue
            try:
                join(app.client.vms, vm, force, viewer)
            except OstlerError as error:
                Failure(error, app).show()


def is_own(viewer: socket.socket) -> bool:
    """Whether a process of this user has the other end of a TCP connection within this machine.

    Linux lists the owners of connections in /proc/net/tcp, see proc_pid_net(5).
    """
    sought = (_hexadecimal(*viewer.getpeername()), _hexadecimal(*viewer.getsockname()), _ESTABLISHED)
    with CONNECTIONS.open() as connections:
        for line in connections:
            _, local, remote, state, _, _, _, uid, *_ = line.split()
            if (local, remote, state) == sought:
                return int(uid) == os.geteuid()
    return False


def join(stub: VmServiceStub, vm: str, force: bool, viewer: socket.socket) -> None:
    """Joins a viewer to the screen until one of both ends. Raises OstlerError, e.g. CONSOLE_BUSY, CONSOLE_IDLE."""
    has_left = threading.Event()

    def inputs() -> Iterator[ConsoleInput]:
        yield ConsoleInput(vm=vm, force=force)
        with suppress(OSError):
            while data := viewer.recv(READ_BYTES):
                yield ConsoleInput(data=data)
        has_left.set()
        call.cancel()

    call = stub.Screen(inputs())
    try:
        for output in call:
            viewer.sendall(output.data)
    except OstlerError:
        if not has_left.is_set():
            raise
    except OSError:  # the viewer has gone
        pass
    finally:
        call.cancel()
        with suppress(OSError):  # wakes inputs()
            viewer.shutdown(socket.SHUT_RDWR)


def _hexadecimal(address: str, port: int) -> str:
    """An address as /proc/net/tcp has it: the 32 bits in the machine's byte order."""
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}:{port:04X}"
