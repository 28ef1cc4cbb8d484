"""The open driver: `base.Hypervisor` over a driver program. What it knows of VMs is what the program lists."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ostler_common.errors import FailedPreconditionError, NotFoundError, UnavailableError
from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Console, Listener, Paths, Progress, VmEventKind, VmSample
from ostler_agent.hypervisors.executable import protocol
from ostler_agent.hypervisors.executable.channel import CALL_TIMEOUT_S, Channel
from ostler_agent.hypervisors.executable.protocol import ProtocolError
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.hypervisors.toolkit.console import Consoles
from ostler_agent.hypervisors.toolkit.events import Events
from ostler_agent.spec import DiskSpec, PowerState, VmInfo, VmSpec

T = TypeVar("T")

START_TIMEOUT_S = 60.0
LIST_TIMEOUT_S = 10.0
_RUNNING = frozenset({PowerState.RUNNING, PowerState.PAUSED})


class ExecutableHypervisor:
    """The core. state_dir: the program's directory, below which its consoles' sockets must be."""

    def __init__(self, info: DriverInfo, state_dir: Path, command: Sequence[str], options: Mapping[str, Any]) -> None:
        self._info = info
        self._state_dir = state_dir
        hello = {"protocol_version": protocol.PROTOCOL_VERSION, "state_dir": str(state_dir), "options": options}
        self._events = Events(self.vms, self._stopped)
        self._channel = Channel(command, hello, self._events.reconnected)
        self._consoles = Consoles()
        self._listing = threading.Lock()
        self._locks: dict[str, threading.RLock] = {}
        self._channel.open()
        self._events.start()

    @property
    def info(self) -> DriverInfo:
        return self._info

    def close(self) -> None:
        self._events.close()
        self._consoles.close()
        self._channel.close()

    # -- inventory

    def vm(self, vm_id: str) -> VmInfo:
        absent = VmInfo(vm_id, "", PowerState.ABSENT, 0, 0, (), managed=False)
        return next((vm for vm in self.vms() if vm.vm_id == vm_id), absent)

    def vms(self) -> list[VmInfo]:
        return self._list()

    def running(self, vm_id: str) -> bool:
        return self.vm(vm_id).power_state in _RUNNING

    def using(self, volume_id: str) -> str | None:
        users = (vm.vm_id for vm in self.vms() if volume_id in vm.volume_ids and vm.power_state in _RUNNING)
        return next(users, None)

    def samples(self) -> list[VmSample]:
        return self._parsed(protocol.vm_samples, self._channel.call("samples", {}, LIST_TIMEOUT_S))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._events.subscribe(listener)

    # -- definition and power

    def define(self, spec: VmSpec, paths: Paths) -> None:
        with self._lock(spec.vm_id):
            if self.running(spec.vm_id):
                raise _running(spec.vm_id, "stop it before you replace its definition")
            self._channel.call("define", protocol.vm_args(spec, paths))
            self._list(spec.vm_id, "defined")

    def start(self, spec: VmSpec, paths: Paths) -> None:
        with self._lock(spec.vm_id):
            if not self.running(spec.vm_id):
                self._channel.call("start", protocol.vm_args(spec, paths), START_TIMEOUT_S)
                self._list(spec.vm_id, "booted")

    def shut_down(self, vm_id: str) -> None:
        self._need(vm_id)
        self._channel.call("shut_down", {"vm_id": vm_id})

    def power_off(self, vm_id: str) -> None:
        with self._lock(vm_id):
            if self.running(vm_id):
                self._channel.call("power_off", {"vm_id": vm_id})
                self._list(vm_id, "destroyed")

    def delete(self, vm_id: str) -> None:
        with self._lock(vm_id):
            found = self.vm(vm_id)
            if found.power_state in _RUNNING:
                raise _running(vm_id, "stop it before you delete it")
            if found.power_state is not PowerState.ABSENT:
                self._channel.call("delete", {"vm_id": vm_id})
                self._list(vm_id, "deleted")

    def console(self, vm_id: str, force: bool) -> Console:
        with self._lock(vm_id):
            self._need_running(vm_id)
            path = Path(self._parsed(protocol.path_result, self._channel.call("console", {"vm_id": vm_id})))
            if ".." in path.parts or not path.is_relative_to(self._state_dir):
                raise _violation(f"the console's socket {path} is not below {self._state_dir}")
            return self._consoles.open(vm_id, path, force)

    # -- inside

    def _list(self, changed: str = "", detail: str = "") -> list[VmInfo]:
        """Lists the VMs, and emits events for what changed since the last list. changed: the VM that a call has just
        changed; detail: how."""
        with self._listing:
            found = self._parsed(protocol.vm_infos, self._channel.call("list", {}, LIST_TIMEOUT_S))
            self._events.compare(found, changed, detail)
            return found

    def _need(self, vm_id: str) -> VmInfo:
        found = self.vm(vm_id)
        if found.power_state is PowerState.ABSENT:
            raise NotFoundError(f"VM {vm_id} is not on this host", "VM_NOT_FOUND", {"vm": vm_id})
        return found

    def _need_running(self, vm_id: str) -> None:
        if self._need(vm_id).power_state not in _RUNNING:
            raise FailedPreconditionError(
                f"VM {vm_id} is not running (start it first)", "VM_NOT_RUNNING", {"vm": vm_id}
            )

    def _stopped(self, vm_id: str) -> tuple[VmEventKind, str]:
        self._consoles.close_of(vm_id)
        return VmEventKind.STOPPED, "ended"

    def _parsed(self, parse: Callable[[object], T], result: object) -> T:
        try:
            return parse(result)
        except ProtocolError as error:
            raise _violation(str(error)) from error

    @contextmanager
    def _lock(self, vm_id: str) -> Iterator[None]:
        with self._locks.setdefault(vm_id, threading.RLock()):
            yield


class RebootPart(ExecutableHypervisor):
    def reboot(self, vm_id: str, hard: bool) -> None:
        self._need_running(vm_id)
        self._channel.call("reboot", {"vm_id": vm_id, "hard": hard})
        if hard:
            self._events.emit(VmEventKind.REBOOTED, self.vm(vm_id), "reset")


class HotPlugPart(ExecutableHypervisor):
    def attach(self, vm_id: str, disk: DiskSpec, path: Path) -> None:
        with self._lock(vm_id):
            self._need(vm_id)
            self._channel.call("attach", {"vm_id": vm_id, "disk": protocol.disk_args(disk, str(path))})

    def detach(self, vm_id: str, volume_id: str, key_id: str | None, timeout_s: float, progress: Progress) -> None:
        if volume_id in self.vm(vm_id).volume_ids:
            progress.report("waiting for the guest to release the disk")
            args = {"vm_id": vm_id, "volume_id": volume_id, "timeout_s": timeout_s}
            self._channel.call("detach", args, timeout_s + CALL_TIMEOUT_S)


class OnlineGrowPart(ExecutableHypervisor):
    def grow_disk(self, vm_id: str, volume_id: str, size_bytes: int) -> None:
        self._need_running(vm_id)
        self._channel.call("grow_disk", {"vm_id": vm_id, "volume_id": volume_id, "size_bytes": size_bytes})


class ScreenshotPart(ExecutableHypervisor):
    def screenshot(self, vm_id: str) -> bytes:
        self._need_running(vm_id)
        picture = self._state_dir / f"screen-{vm_id}-{time.monotonic_ns()}.png"
        try:
            self._channel.call("screenshot", {"vm_id": vm_id, "path": str(picture)})
            return picture.read_bytes()
        except OSError as error:
            raise _violation(f"it wrote no screenshot: {error.strerror}") from error
        finally:
            picture.unlink(missing_ok=True)


_PARTS: Mapping[Function, type[ExecutableHypervisor]] = {
    Function.REBOOT: RebootPart,
    Function.HOT_PLUG: HotPlugPart,
    Function.ONLINE_GROW: OnlineGrowPart,
    Function.SCREENSHOT: ScreenshotPart,
}


def hypervisor_type(info: DriverInfo) -> type[ExecutableHypervisor]:
    """The class with the calls of the functions that a program states, and no others."""
    parts = tuple(part for function, part in _PARTS.items() if function in info.functions)
    return type("ExecutableHypervisor", (*parts, ExecutableHypervisor), {}) if parts else ExecutableHypervisor


def _running(vm_id: str, advice: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"VM {vm_id} is running ({advice})", "VM_RUNNING", {"vm": vm_id})


def _violation(what: str) -> UnavailableError:
    return UnavailableError(f"the driver program violates the protocol: {what}", "DRIVER_UNAVAILABLE")
