"""A running QEMU process, found by its pid file and controlled over QMP."""

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
END_EVENT_TIMEOUT_S = 4.0
READY_TIMEOUT_S = 5.0
_RETRY_S = 0.5
ENDED, RECONNECTED = "ENDED", "RECONNECTED"  # received like QEMU's own events

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # relevant errors are exceptions


# Receives the machine, the event, its data and its time, on the loop's thread: must not block.
OnEvent = Callable[["Machine", str, Mapping[str, Any], datetime], None]


class Machine:
    """Created by `find`. shutdown: QEMU's reason for its shutdown, "" while it runs."""

    def __init__(self, loop: Loop, vm_id: str, directory: Path, pid: int, pidfd: int, on_event: OnEvent) -> None:
        self.vm_id = vm_id
        self.pid = pid
        self.directory = directory
        self.shutdown = ""
        self.refused: set[str] = set()  # ids of devices that the guest refused to release
        self._loop = loop
        self._pidfd = pidfd
        self._on_event = on_event
        self._client: QMPClient | None = None
        self._ready, self._gone = asyncio.Event(), asyncio.Event()
        self._over = False
        self._monitor: asyncio.Task[None] | None = None
        self._end_task: asyncio.Task[None] | None = None
        self._end_emitted = threading.Event()
        # Closed with the last reference: `alive` must never ask about a reused descriptor.
        weakref.finalize(self, os.close, pidfd)
        loop.run(self._begin(), EXECUTE_TIMEOUT_S)

    @property
    def alive(self) -> bool:
        return not _ended(self._pidfd, 0)

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None, what: str = "") -> Any:
        """Executes a QMP command and returns its result. what: the action, for the error message.

        Raises FailedPreconditionError VM_NOT_RUNNING if the process ends meanwhile, UnavailableError,
        DeadlineExceededError, and the errors of `to_ostler_error`.
        """
        try:
            return self._loop.run(self._execute(command, arguments), EXECUTE_TIMEOUT_S)
        except ExecuteError as error:
            raise to_ostler_error(what or f"VM {self.vm_id}: {command}", str(error)) from error
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"QEMU of VM {self.vm_id} does not answer {command}", "HYPERVISOR_TIMEOUT"
            ) from error
        except QMPError as error:
            if _ended(self._pidfd, 1):
                raise not_running(self.vm_id) from error
            raise UnavailableError(
                f"QEMU of VM {self.vm_id} disconnected: {error}", "HYPERVISOR_UNAVAILABLE"
            ) from error

    def wait_until_ready(self) -> bool:
        """Waits until the process answers or has ended, or for the timeout; returns whether it is alive.

        A process whose start was interrupted exits when it finds its parent gone, and does not answer until then.
        """
        with contextlib.suppress(TimeoutError):
            self._loop.run(self._ready.wait(), READY_TIMEOUT_S)
        return self.alive

    def kill(self) -> None:
        """Kills the process and waits for its end."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if not self.wait(KILL_TIMEOUT_S):
            raise DeadlineExceededError(
                f"QEMU of VM {self.vm_id} (process {self.pid}) cannot be killed", "HYPERVISOR_TIMEOUT"
            )

    def wait(self, timeout_s: float) -> bool:
        """Waits for the process's end and for its event; returns whether it has ended."""
        return _ended(self._pidfd, timeout_s) and (self._end_emitted.wait(END_EVENT_TIMEOUT_S) or True)

    def close(self) -> None:
        """Disconnects. The process keeps running."""
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
        self._end_task = asyncio.create_task(self._emit_end())

    async def _emit_end(self) -> None:
        """The end is told after what QEMU said before it."""
        self._gone.set()
        self._ready.set()
        assert self._monitor
        await asyncio.wait([self._monitor], timeout=END_EVENT_TIMEOUT_S / 2)
        self._on_event(self, ENDED, {}, datetime.now(UTC))
        self._end_emitted.set()

    async def _keep(self) -> None:
        """Stays connected as long as the process lives."""
        again = False
        while self.alive:
            client = QMPClient(self.vm_id)
            client.register_listener(_ForwardingListener(self._event))
            try:
                monitor = sockets.connect(self.directory, MONITOR)
                monitor.setblocking(False)
                await asyncio.wait_for(client.connect(monitor), EXECUTE_TIMEOUT_S)
            except (OSError, QMPError, TimeoutError):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), _RETRY_S)
                continue
            if again:
                self._on_event(self, RECONNECTED, {}, datetime.now(UTC))
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
        self._on_event(self, event, data, datetime.fromtimestamp(stamp["seconds"] + stamp["microseconds"] / 1e6, UTC))


class _ForwardingListener(EventListener):
    """Forwards events at once instead of queueing them."""

    def __init__(self, forward: Callable[[Message], None]) -> None:
        super().__init__()
        self._forward = forward

    async def put(self, event: Message) -> None:
        self._forward(event)


def find(loop: Loop, vm_id: str, directory: Path, on_event: OnEvent) -> Machine | None:
    """The VM's process if it is running, whichever run of the agent started it."""
    try:
        pid = int((directory / PID_FILE).read_text())
        pidfd = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    # The pid file may be stale and its number reused. Open the descriptor first, then check the process it names.
    if _is_ours(pid, vm_id, directory) and not _ended(pidfd, 0):
        return Machine(loop, vm_id, directory, pid, pidfd, on_event)
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
