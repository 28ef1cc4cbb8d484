"""Serial consoles, each held by one at a time."""

from __future__ import annotations

import contextlib
import socket
import threading

from ostler_common.errors import AbortedError, FailedPreconditionError

from ostler_qemu_driver import sockets
from ostler_qemu_driver.command import CONSOLE
from ostler_qemu_driver.machine import Machine

CHUNK_BYTES = 64 * 1024


class QemuConsole:
    """`ostler_agent.hypervisors.base.Console`."""

    def __init__(self, machine: Machine) -> None:
        self._vm_id = machine.vm_id
        self._machine = machine
        self._closed = self._taken = False
        self._socket = sockets.connect(machine.directory, CONSOLE)

    @property
    def held(self) -> bool:
        return not self._closed and self._machine.alive

    def read(self) -> bytes:
        data = b""
        with contextlib.suppress(OSError):  # an error is the end, too
            data = self._socket.recv(CHUNK_BYTES)
        if not data:
            self.close()
            if self._taken:
                raise AbortedError(f"another caller took over the console of VM {self._vm_id}", "CONSOLE_TAKEN")
        return data

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # closed; read() tells why
            self._socket.sendall(data)

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):  # wakes a reader; the descriptor closes with the last reference
            self._socket.shutdown(socket.SHUT_RDWR)

    def take_over(self) -> None:
        self._taken = True
        self.close()


class Consoles:
    """The holders of consoles."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, QemuConsole] = {}

    def open(self, machine: Machine, force: bool) -> QemuConsole:
        """Raises FailedPreconditionError CONSOLE_BUSY unless force takes it over."""
        with self._lock:
            holder = self._held.get(machine.vm_id)
            if holder and holder.held:
                if not force:
                    raise FailedPreconditionError(
                        f"the console of VM {machine.vm_id} is in use (use force to take it over)",
                        "CONSOLE_BUSY",
                        {"vm": machine.vm_id},
                    )
                holder.take_over()
            console = self._held[machine.vm_id] = QemuConsole(machine)
            return console

    def close(self) -> None:
        with self._lock:
            for console in self._held.values():
                console.close()
