"""A terminal on a VM's serial console, over one stream in each direction."""

from __future__ import annotations

import os
import queue
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
from ostler.control.v1.vm_pb2 import ConsoleInput
from ostler_common.errors import DeadlineExceededError, OstlerError

if TYPE_CHECKING:
    from ostler.control.v1.vm_pb2_grpc import VmServiceStub

LEAVE = b"\x1d"  # Ctrl-]
LEAVE_S = 0.5
READ_BYTES = 4096


def converse(stub: VmServiceStub, vm: str, force: bool, duration_s: float | None) -> None:
    """Joins standard input and output to the console until Ctrl-], the time's or the console's end.

    On a terminal keys go through as they are typed, and the terminal is as before when this returns or raises.
    Raises OstlerError when the console cannot be had or breaks off.
    """
    typed: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    left = threading.Event()
    interactive = sys.stdin.isatty()
    call = stub.Console(_inputs(vm, force, typed), timeout=duration_s)

    def leave() -> None:
        left.set()
        typed.put(None)  # what was typed before it still goes out
        last = threading.Timer(LEAVE_S, call.cancel)
        last.daemon = True
        last.start()

    with _keys(typed, leave, interactive):
        if interactive:
            click.echo(f"Connected to the console of {vm}. Ctrl-] disconnects.\r", err=True)
        try:
            for output in call:
                _write(output.data)
        except OstlerError as e:
            over = duration_s is not None and isinstance(e, DeadlineExceededError)
            if not (left.is_set() or over):
                raise
        finally:
            call.cancel()
            typed.put(None)
    if interactive:
        click.echo("\nDisconnected.", err=True)


def _inputs(vm: str, force: bool, typed: queue.SimpleQueue[bytes | None]) -> Iterator[ConsoleInput]:
    yield ConsoleInput(vm=vm, force=force)
    while (data := typed.get()) is not None:
        yield ConsoleInput(data=data)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]


@contextmanager
def _keys(typed: queue.SimpleQueue[bytes | None], leave: Callable[[], None], interactive: bool) -> Iterator[None]:
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
                typed.put(head)
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
