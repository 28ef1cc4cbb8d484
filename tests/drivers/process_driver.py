"""A small, correct driver: a VM is a process of `vm_process.py`, its disks are raw files.

It has the core of the driver interface and nothing else. What it knows of a VM is in the VM's directory, so that each
run of the agent finds everything.
"""

from __future__ import annotations

import json
import os
import queue
import select
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ostler_agent.capabilities.facts import HypervisorFacts
from ostler_agent.files import write_file
from ostler_agent.hypervisors.base import Console, Listener, Paths, VmEvent, VmEventKind, VmSample
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.process import RunError, run
from ostler_agent.spec import PowerState, VmInfo, VmSpec
from ostler_common.errors import AbortedError, FailedPreconditionError, InternalError, NotFoundError, OstlerError
from pydantic import BaseModel, ConfigDict

from tests.drivers import vm_process

PROGRAM = vm_process.__file__
START_S = 2.0


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Definition:
    vm_id: str
    name: str
    cpus: int
    memory_bytes: int
    volume_ids: tuple[str, ...]
    paths: tuple[str, ...]


class ProcessConsole:
    """Connects to the VM's socket."""

    def __init__(self, directory: Path) -> None:
        self.closed = self.taken = False
        self._socket = socket.socket(socket.AF_UNIX)
        parent = os.open(directory, os.O_PATH | os.O_CLOEXEC)
        try:
            # The address of a socket has at most 107 characters.
            self._socket.connect(f"/proc/self/fd/{parent}/console")
        finally:
            os.close(parent)

    def read(self) -> bytes:
        data = b""
        with suppress(OSError):
            data = self._socket.recv(4096)
        if not data:
            self.close()
            if self.taken:
                raise AbortedError("another caller took over the console", "CONSOLE_TAKEN")
        return data

    def write(self, data: bytes) -> None:
        with suppress(OSError):
            self._socket.sendall(data)

    def close(self) -> None:
        self.closed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class ProcessHypervisor:
    """`ostler_agent.hypervisors.base.Hypervisor`."""

    def __init__(self, info: DriverInfo, state_dir: Path) -> None:
        self._info = info
        self.state_dir = state_dir
        self.listeners: list[Listener] = []
        self.consoles: dict[str, ProcessConsole] = {}
        self.lock = threading.RLock()
        self.watched: set[str] = set()
        self._events: queue.SimpleQueue[VmEvent | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._dispatch, self._watch)]
        self.watched = {vm_id for vm_id in self.ids() if self.pid(vm_id)}
        for thread in self._threads:
            thread.start()

    @property
    def info(self) -> DriverInfo:
        return self._info

    def close(self) -> None:
        self._closed.set()
        for console in self.consoles.values():
            console.close()
        self._events.put(None)
        for thread in self._threads:
            thread.join()

    # -- inventory

    def vm(self, vm_id: str) -> VmInfo:
        found = self.read(vm_id)
        if found is None:
            return VmInfo(vm_id, "", PowerState.ABSENT, 0, 0, (), managed=False)
        state = PowerState.RUNNING if self.pid(vm_id) else PowerState.STOPPED
        return VmInfo(vm_id, found.name, state, found.cpus, found.memory_bytes, found.volume_ids, managed=True)

    def vms(self) -> list[VmInfo]:
        return [self.vm(vm_id) for vm_id in self.ids()]

    def running(self, vm_id: str) -> bool:
        return self.pid(vm_id) is not None

    def using(self, volume_id: str) -> str | None:
        return next((vm.vm_id for vm in self.vms() if volume_id in vm.volume_ids and self.running(vm.vm_id)), None)

    def samples(self) -> list[VmSample]:
        return [sample for vm_id in self.ids() if (pid := self.pid(vm_id)) and (sample := _sample(vm_id, pid))]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    # -- definition and power

    def define(self, spec: VmSpec, paths: Paths) -> None:
        with self.lock:
            if self.running(spec.vm_id):
                raise FailedPreconditionError(f"VM {spec.vm_id} is running (stop it first)", "VM_RUNNING")
            self.write(spec, paths)

    def start(self, spec: VmSpec, paths: Paths) -> None:
        with self.lock:
            if self.running(spec.vm_id):
                return
            self.launch(self.write(spec, paths))
            self.watched.add(spec.vm_id)
            self.emit(spec.vm_id, VmEventKind.STARTED, "booted")

    def shut_down(self, vm_id: str) -> None:
        """The guest ignores it."""
        self.need(vm_id)

    def power_off(self, vm_id: str) -> None:
        with self.lock:
            if pid := self.pid(vm_id):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                wait_for_end(pid)
                self.ended(vm_id, "destroyed")

    def delete(self, vm_id: str) -> None:
        with self.lock:
            if self.running(vm_id):
                raise FailedPreconditionError(f"VM {vm_id} is running (stop it first)", "VM_RUNNING")
            if self.read(vm_id):
                (self.directory(vm_id) / "definition.json").unlink()
                shutil.rmtree(self.directory(vm_id))
                self.emit(vm_id, VmEventKind.UNDEFINED, "deleted")

    def console(self, vm_id: str, force: bool) -> Console:
        with self.lock:
            self.need(vm_id)
            if not self.running(vm_id):
                raise FailedPreconditionError(f"VM {vm_id} is not running", "VM_NOT_RUNNING")
            holder = self.consoles.get(vm_id)
            if holder and not holder.closed:
                if not force:
                    raise FailedPreconditionError(f"the console of VM {vm_id} is in use", "CONSOLE_BUSY")
                holder.taken = True
                holder.close()
            opened = self.consoles[vm_id] = self.connect(vm_id)
            return opened

    # -- the pieces, which broken drivers replace

    def connect(self, vm_id: str) -> ProcessConsole:
        return ProcessConsole(self.directory(vm_id))

    def launch(self, definition: Definition, parent: int = 0) -> None:
        directory = self.directory(definition.vm_id)
        argv: list[str | Path] = [
            sys.executable,
            "-S",
            "-E",
            PROGRAM,
            definition.vm_id,
            directory,
            str(parent),
            *definition.paths,
        ]
        try:
            run(argv, timeout_s=30)
        except RunError as error:
            if error.exit_code == vm_process.IN_USE:
                if self.started_meanwhile(definition.vm_id):
                    return
                raise FailedPreconditionError(
                    f"another VM uses a disk of VM {definition.vm_id}", "DISK_IN_USE"
                ) from error
            if error.exit_code == vm_process.NO_DISK:
                raise FailedPreconditionError(
                    f"a disk of VM {definition.vm_id} does not exist", "VOLUME_MISSING"
                ) from error
            raise InternalError(f"cannot start VM {definition.vm_id}: {error.message}", "START_FAILED") from error

    def started_meanwhile(self, vm_id: str) -> bool:
        """Whether the VM's own process has its disks: an agent that was killed in the midst of a start leaves one that
        writes its process id a moment later."""
        end = time.monotonic() + START_S
        while not self.running(vm_id):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def directory(self, vm_id: str) -> Path:
        return self.state_dir / vm_id

    def ids(self) -> list[str]:
        return sorted(path.parent.name for path in self.state_dir.glob("*/definition.json"))

    def read(self, vm_id: str) -> Definition | None:
        try:
            found = json.loads((self.directory(vm_id) / "definition.json").read_text())
        except FileNotFoundError:
            return None
        volume_ids, paths = tuple(found.pop("volume_ids")), tuple(found.pop("paths"))
        return Definition(**found, volume_ids=volume_ids, paths=paths)

    def write(self, spec: VmSpec, paths: Paths) -> Definition:
        volumes = [disk.volume for disk in spec.disks]
        definition = Definition(
            spec.vm_id,
            spec.name,
            spec.cpus,
            spec.memory_bytes,
            tuple(volume.volume_id for volume in volumes),
            tuple(str(paths(volume)) for volume in volumes),
        )
        self.directory(spec.vm_id).mkdir(mode=0o700, exist_ok=True)
        write_file(self.directory(spec.vm_id) / "definition.json", json.dumps(asdict(definition)).encode())
        return definition

    def need(self, vm_id: str) -> None:
        if self.read(vm_id) is None:
            raise NotFoundError(f"VM {vm_id} is not on this host", "VM_NOT_FOUND")

    def pid(self, vm_id: str) -> int | None:
        """The VM's process if it is running; a stale file may name another process."""
        try:
            pid = int((self.directory(vm_id) / "pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if vm_id.encode() in words else None

    # -- events

    def ended(self, vm_id: str, detail: str) -> None:
        """Emits STOPPED once per end of a VM."""
        with self.lock:
            if vm_id in self.watched:
                self.watched.discard(vm_id)
                self.emit(vm_id, VmEventKind.STOPPED, detail)

    def emit(self, vm_id: str, kind: VmEventKind, detail: str) -> None:
        self._events.put(VmEvent(kind, self.vm(vm_id), detail, datetime.now(UTC)))

    def _dispatch(self) -> None:
        while event := self._events.get():
            for listener in list(self.listeners):
                listener.vm_event(event)

    def _watch(self) -> None:
        while not self._closed.wait(0.1):
            for vm_id in list(self.watched):
                with self.lock:
                    if not self.running(vm_id):
                        self.ended(vm_id, "failed")


class ProcessDriver:
    """`ostler_agent.hypervisors.driver.Driver`. hypervisor: the class to open, a broken one for tests of the suite."""

    def __init__(self, hypervisor: type[ProcessHypervisor] = ProcessHypervisor, info: DriverInfo | None = None) -> None:
        self.info = info or DriverInfo(interface_version=1)
        self._hypervisor = hypervisor

    def probe(self, context: DriverContext) -> HypervisorFacts:
        return HypervisorFacts(hypervisor_version="1", cpus=os.cpu_count() or 1, memory_bytes=1 << 30)

    def open(self, context: DriverContext) -> ProcessHypervisor:
        context.options_as(Options)
        return self._hypervisor(self.info, context.state_dir)


def wait_for_end(pid: int) -> None:
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(5000)
        finally:
            os.close(pidfd)
    deadline = time.monotonic() + 5
    while _command_line(pid) and time.monotonic() < deadline:
        time.sleep(0.01)


def _command_line(pid: int) -> bytes:
    """Empty for a zombie, and for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # also while it is being read
        return b""


def _sample(vm_id: str, pid: int) -> VmSample | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])  # utime, stime, rss
    return VmSample(vm_id, ticks * 10_000_000, pages * os.sysconf("SC_PAGE_SIZE"), 0)


SOUND = ProcessDriver()
__all__ = ["SOUND", "OstlerError", "ProcessConsole", "ProcessDriver", "ProcessHypervisor"]
