"""A QEMU process that lives: found by its pid file, spoken to over QMP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import threading
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ostler_common.errors import DeadlineExceededError, UnavailableError
from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError, Runstate

from ostler_qemu_driver import sockets
from ostler_qemu_driver.command import MONITOR, PID_FILE
from ostler_qemu_driver.errors import not_running, to_ostler_error
from ostler_qemu_driver.loop import Loop

EXECUTE_TIMEOUT_S = 20.0
KILL_TIMEOUT_S = 30.0
BURIAL_S = 4.0
SETTLE_S = 5.0
_RETRY_S = 0.5
ENDED, RECONNECTED = "ENDED", "RECONNECTED"  # heard like QEMU's own events

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what matters of it comes as an exception


# Called with the machine, the event, its data and its time, on the loop's thread: must not block.
Hear = Callable[["Machine", str, Mapping[str, Any], datetime], None]


class Machine:
    """Made by `find`. shutdown: QEMU's word for why it is ending, "" while it is not."""

    def __init__(self, loop: Loop, vm_id: str, directory: Path, pid: int, pidfd: int, hear: Hear) -> None:
        self.vm_id = vm_id
        self.pid = pid
        self.directory = directory
        self.shutdown = ""
        self.refused: set[str] = set()  # ids of devices that the guest would not let go of
        self._loop = loop
        self._pidfd = pidfd
        self._hear = hear
        self._client: QMPClient | None = None
        self._ready, self._gone = asyncio.Event(), asyncio.Event()
        self._over = False
        self._monitor: asyncio.Task[None] | None = None
        self._burial: asyncio.Task[None] | None = None
        self._buried = threading.Event()
        # Whoever still asks whether it lives gets an answer, and not that of another descriptor of this number.
        weakref.finalize(self, os.close, pidfd)
        loop.run(self._begin(), EXECUTE_TIMEOUT_S)

    @property
    def alive(self) -> bool:
        return not _ended(self._pidfd, 0)

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None, what: str = "") -> Any:
        """One QMP command; its answer. what: what is being done, for the error.

        Raises FailedPreconditionError VM_NOT_RUNNING when the process ends meanwhile, UnavailableError,
        DeadlineExceededError, and what `to_ostler_error` makes of QEMU's refusal.
        """
        try:
            return self._loop.run(self._execute(command, arguments), EXECUTE_TIMEOUT_S)
        except ExecuteError as error:
            raise to_ostler_error(what or f"VM {self.vm_id}: {command}", str(error)) from error
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"QEMU of VM {self.vm_id} does not answer to {command}", "HYPERVISOR_TIMEOUT"
            ) from error
        except QMPError as error:
            if _ended(self._pidfd, 1):
                raise not_running(self.vm_id) from error
            raise UnavailableError(f"QEMU of VM {self.vm_id} hung up: {error}", "HYPERVISOR_UNAVAILABLE") from error

    def settle(self) -> bool:
        """Waits until it answers or has ended, or a while; whether it lives.

        A process whose start was cut short dies when it finds its parent gone, and answers nobody until then.
        """
        with contextlib.suppress(TimeoutError):
            self._loop.run(self._ready.wait(), SETTLE_S)
        return self.alive

    def kill(self) -> None:
        """Returns when the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if not self.wait(KILL_TIMEOUT_S):
            raise DeadlineExceededError(
                f"QEMU of VM {self.vm_id} (process {self.pid}) does not die", "HYPERVISOR_TIMEOUT"
            )

    def wait(self, timeout_s: float) -> bool:
        """Waits for the process's end, and until it has been told of; whether it has ended."""
        return _ended(self._pidfd, timeout_s) and (self._buried.wait(BURIAL_S) or True)

    def close(self) -> None:
        """Hangs up. The process lives on."""
        self._loop.run(self._close(), EXECUTE_TIMEOUT_S)

    # -- on the loop's thread

    async def _begin(self) -> None:
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)
        self._monitor = asyncio.create_task(self._keep())

    async def _close(self) -> None:
        if not self._over:
            self._over = True
            asyncio.get_running_loop().remove_reader(self._pidfd)
            assert self._monitor
            self._monitor.cancel()
            await asyncio.gather(self._monitor, return_exceptions=True)
            self._ready.set()

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._burial = asyncio.create_task(self._bury())

    async def _bury(self) -> None:
        """The end is told after what QEMU said before it."""
        self._gone.set()
        self._ready.set()
        assert self._monitor
        await asyncio.wait([self._monitor], timeout=BURIAL_S / 2)
        self._hear(self, ENDED, {}, datetime.now(UTC))
        self._buried.set()

    async def _keep(self) -> None:
        """Stays connected as long as the process lives."""
        again = False
        while self.alive:
            client = QMPClient(self.vm_id)
            client.register_listener(_Ear(self._event))
            try:
                monitor = sockets.connect(self.directory, MONITOR)
                monitor.setblocking(False)
                await asyncio.wait_for(client.connect(monitor), EXECUTE_TIMEOUT_S)
            except (OSError, QMPError, TimeoutError):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), _RETRY_S)
                continue
            if again:
                self._hear(self, RECONNECTED, {}, datetime.now(UTC))
            again = True
            self._client = client
            self._ready.set()
            try:
                while client.runstate is Runstate.RUNNING:
                    await client.runstate_changed()
            finally:
                self._client = None
                if self.alive:
                    self._ready.clear()
                with contextlib.suppress(Exception):  # why the connection ended does not matter
                    await client.disconnect()

    async def _execute(self, command: str, arguments: Mapping[str, Any] | None) -> object:
        await self._ready.wait()
        if self._client is None:
            raise QMPError("it has ended")
        return await self._client.execute(command, dict(arguments) if arguments else None)

    def _event(self, message: Message) -> None:
        event, data, stamp = str(message["event"]), message.get("data", {}), message["timestamp"]
        assert isinstance(data, dict)
        assert isinstance(stamp, dict)
        if event == "SHUTDOWN":
            self.shutdown = data["reason"]
        elif event == "DEVICE_UNPLUG_GUEST_ERROR":
            self.refused.add(data.get("device", ""))
        self._hear(self, event, data, datetime.fromtimestamp(stamp["seconds"] + stamp["microseconds"] / 1e6, UTC))


class _Ear(EventListener):
    """Hands events on as they come, instead of keeping them."""

    def __init__(self, heard: Callable[[Message], None]) -> None:
        super().__init__()
        self._heard = heard

    async def put(self, event: Message) -> None:
        self._heard(event)


def find(loop: Loop, vm_id: str, directory: Path, hear: Hear) -> Machine | None:
    """The VM's process, if it lives; whoever started it."""
    try:
        pid = int((directory / PID_FILE).read_text())
        pidfd = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    # A pid file may be left from before, and its number another's by now. The descriptor comes first, so that
    # what is looked at is what it names.
    if _is_ours(pid, vm_id, directory) and not _ended(pidfd, 0):
        return Machine(loop, vm_id, directory, pid, pidfd, hear)
    os.close(pidfd)
    return None


def _is_ours(pid: int, vm_id: str, directory: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return vm_id.encode() in words and str(directory / PID_FILE).encode() in words


def _ended(pidfd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
