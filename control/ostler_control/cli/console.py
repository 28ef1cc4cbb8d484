"""A terminal on a VM's serial console, over one stream in each direction."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from ostler.client.consoles import ConsoleStream
from ostler_common.errors import DeadlineExceededError

from ostler_control.cli.waiting import SILENCE

if TYPE_CHECKING:
    from ostler.control.v1.vm_pb2_grpc import VmServiceStub

LEAVE = b"\x1d"  # Ctrl-]
LEAVE_S = 0.5
READ_BYTES = 4096


def converse(stub: VmServiceStub, vm: str, force: bool, duration_s: float | None) -> None:
    """Joins standard input and output to the console until Ctrl-], the time's or the console's end.

    On a terminal keys go through as they are typed, and the terminal is as before when this returns or raises.
    Raises OstlerError when the console cannot be opened or ends with an error.
    """
    interactive = sys.stdin.isatty()
    silences = 0

    def tell_silence() -> None:
        nonlocal silences
        silences += 1
        if silences == 1:
            click.echo(f"{SILENCE}\r", err=True)

    stream = ConsoleStream(stub, vm, force, duration_s, tell_silence)

    def leave() -> None:
        stream.end_input()  # what was typed before it still goes out
        last = threading.Timer(LEAVE_S, stream.close)
        last.daemon = True
        last.start()

    with _keys(stream.type, leave, interactive):
        if interactive:
            click.echo(f"Connected to the console of {vm}. Ctrl-] disconnects.\r", err=True)
        try:
            for data in stream:
                silences = 0
                _write(data)
        except DeadlineExceededError:
            if duration_s is None:
                raise
        finally:
            stream.close()
    if interactive:
        click.echo("\nDisconnected.", err=True)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]


@contextmanager
def _keys(send: Callable[[bytes], None], leave: Callable[[], None], interactive: bool) -> Iterator[None]:
    """Within it, a thread reads standard input; a terminal is raw, and as before afterwards, also after SIGTERM."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor) if interactive else None
    wake, woken = os.pipe()  # ends the thread, which select() would otherwise hold

    def read() -> None:
        while True:
            ready, _, _ = select.select([descriptor, wake], [], [])
            if wake in ready:
                return
            try:
                data = os.read(descriptor, READ_BYTES)
            except OSError:  # the terminal has hung up
                data = b""
            if not data:
                if interactive:  # the end of a pipe is not the end of the console
                    leave()
                return
            head, left, _ = data.partition(LEAVE) if interactive else (data, b"", b"")
            if head:
                send(head)
            if left:
                leave()
                return

    reader = threading.Thread(target=read, name="console-input", daemon=True)
    try:
        if before is not None:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda number, frame: sys.exit(128 + number))
            tty.setraw(descriptor)
        reader.start()
        yield
    finally:
        os.write(woken, b"x")
        reader.join()
        os.close(wake)
        os.close(woken)
        if before is not None:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
