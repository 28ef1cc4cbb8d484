"""The open driver: `ostler_agent.hypervisors.base.Hypervisor` with reboot, hot-plug, growing and screenshots.

A VM is a directory with its definition. It runs if the process of its pid file runs. There is no other state, so that
every run of the agent finds everything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from ostler_agent.hypervisors.base import Console, Listener, Paths, Progress, VmEventKind, VmSample
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.hypervisors.toolkit.console import Consoles
from ostler_agent.spec import DiskSpec, PowerState, VmInfo, VmSpec
from ostler_common.errors import OstlerError

from ostler_qemu_driver import definition as definitions
from ostler_qemu_driver import disks, machine, samples
from ostler_qemu_driver.command import CONSOLE
from ostler_qemu_driver.definition import Definition, Store
from ostler_qemu_driver.errors import not_found, not_running, running
from ostler_qemu_driver.events import Dispatcher, kind_of, stopped_because
from ostler_qemu_driver.launch import launch
from ostler_qemu_driver.loop import Loop
from ostler_qemu_driver.machine import ENDED, RECONNECTED, Machine

log = structlog.get_logger(__name__)

QUIT_TIMEOUT_S = 5.0
_PAUSED = {"paused", "suspended", "prelaunch", "io-error", "watchdog", "debug", "internal-error", "guest-panicked"}


class QemuHypervisor:
    """state_dir: contains the VMs' directories."""

    def __init__(self, info: DriverInfo, state_dir: Path, qemu: str, accel: str) -> None:
        self._info = info
        self._qemu, self._accel = qemu, accel
        self._store = Store(state_dir)
        self._loop = Loop()
        self._dispatcher = Dispatcher(self.vm)
        self._consoles = Consoles()
        self._guard = threading.Lock()
        self._machines: dict[str, Machine] = {}
        self._locks: dict[str, threading.Lock] = {}
        for vm_id in self._store.ids():
            self._machine(vm_id)  # started by an earlier run of the agent: to receive their events

    @property
    def info(self) -> DriverInfo:
        return self._info

    def close(self) -> None:
        self._consoles.close()
        with self._guard:
            for each in self._machines.values():
                each.close()
        self._dispatcher.close()
        self._loop.close()

    # -- inventory

    def vm(self, vm_id: str) -> VmInfo:
        definition = self._store.read(vm_id)
        if definition is None:
            return VmInfo(vm_id, "", PowerState.ABSENT, cpus=0, memory_bytes=0, volume_ids=(), managed=False)
        state, attached = PowerState.STOPPED, definition.disks
        if live := self._machine(vm_id):
            try:
                state = _power_state(live.execute("query-status")["status"])
                attached = tuple(each.disk for each in disks.live_disks(live))
            except OstlerError:
                # Ended meanwhile, or too busy to answer: then it is running.
                state = PowerState.RUNNING if live.alive else PowerState.STOPPED
        return VmInfo(
            vm_id,
            definition.name,
            state,
            definition.cpus,
            definition.memory_bytes,
            tuple(disk.volume_id for disk in attached),
            managed=True,
        )

    def vms(self) -> list[VmInfo]:
        return [self.vm(vm_id) for vm_id in self._store.ids()]

    def running(self, vm_id: str) -> bool:
        return self._machine(vm_id) is not None

    def using(self, volume_id: str) -> str | None:
        for vm_id in self._store.ids():
            live = self._machine(vm_id)
            if live and any(each.disk.volume_id == volume_id for each in disks.live_disks(live)):
                return vm_id
        return None

    def samples(self) -> list[VmSample]:
        live = [each for vm_id in self._store.ids() if (each := self._machine(vm_id))]
        return [sample for each in live if (sample := samples.sample(each.vm_id, each.pid))]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._dispatcher.subscribe(listener)

    # -- definition and power

    def define(self, spec: VmSpec, paths: Paths) -> None:
        definition = definitions.define(spec, paths)
        with self._hold(spec.vm_id):
            if self._machine(spec.vm_id):
                raise running(spec.vm_id, "stop it before you replace its definition")
            self._write(definition)

    def start(self, spec: VmSpec, paths: Paths) -> None:
        with self._hold(spec.vm_id):
            if self._machine(spec.vm_id):
                return
            definition = definitions.define(spec, paths)
            self._write(definition)
            try:
                launch(self._qemu, self._accel, definition, self._store.directory(spec.vm_id))
            except BaseException:
                if half := self._machine(spec.vm_id):
                    half.kill()
                raise
            self._emit(spec.vm_id, VmEventKind.STARTED, "booted")
            self._machine(spec.vm_id)

    def shut_down(self, vm_id: str) -> None:
        self._get(vm_id)
        if live := self._machine(vm_id):
            live.execute("set-action", {"shutdown": "poweroff"})  # cancels a pending reboot
            live.execute("system_powerdown")

    def power_off(self, vm_id: str) -> None:
        with self._hold(vm_id):
            if live := self._machine(vm_id):
                try:
                    live.execute("quit")
                except OstlerError as error:
                    log.info("QEMU does not quit and is killed", vm=vm_id, error=str(error))
                if not live.wait(QUIT_TIMEOUT_S):
                    live.kill()

    def reboot(self, vm_id: str, hard: bool) -> None:
        live = self._get_running(vm_id)
        if hard:
            live.execute("system_reset")
        else:
            # There is no reboot button: the guest shuts down, its process stays and is reset (see _on_event).
            live.execute("set-action", {"shutdown": "pause"})
            live.execute("system_powerdown")

    def delete(self, vm_id: str) -> None:
        with self._hold(vm_id):
            if self._machine(vm_id):
                raise running(vm_id, "stop it before you delete it")
            if self._store.read(vm_id):
                self._store.remove(vm_id)
                self._emit(vm_id, VmEventKind.UNDEFINED, "removed")

    # -- disks

    def attach(self, vm_id: str, disk: DiskSpec, path: Path) -> None:
        wanted = definitions.disk(disk, path)
        with self._hold(vm_id):
            before = self._get(vm_id)
            # The definition first: it can be undone without the guest.
            if not definitions.has(before.disks, wanted, vm_id):
                self._store.write(before.with_disk(wanted))
            try:
                if live := self._machine(vm_id):
                    disks.attach(live, wanted)
            except BaseException:
                self._store.write(before)
                raise

    def detach(self, vm_id: str, volume_id: str, key_id: str | None, timeout_s: float, progress: Progress) -> None:
        definition = self._store.read(vm_id)
        if definition is None:
            return
        slot = next((disk.slot for disk in definition.disks if disk.volume_id == volume_id), None)
        if live := self._machine(vm_id):
            try:
                disks.detach(live, volume_id, slot, timeout_s, progress)
            except OstlerError:
                if live.alive:
                    raise
        with self._hold(vm_id):
            self._store.write(self._get(vm_id).without_volume(volume_id))

    def grow_disk(self, vm_id: str, volume_id: str, size_bytes: int) -> None:
        disks.grow(self._get_running(vm_id), volume_id, size_bytes)

    # -- console and screen

    def console(self, vm_id: str, force: bool) -> Console:
        return self._consoles.open(vm_id, self._get_running(vm_id).directory / CONSOLE, force)

    def screenshot(self, vm_id: str) -> bytes:
        live = self._get_running(vm_id)
        picture = live.directory / f"screen-{time.monotonic_ns()}.png"
        try:
            live.execute(
                "screendump", {"filename": str(picture), "format": "png"}, f"taking a screenshot of VM {vm_id}"
            )
            return picture.read_bytes()
        finally:
            picture.unlink(missing_ok=True)

    # -- internals

    def _machine(self, vm_id: str) -> Machine | None:
        """The VM's process if it is running."""
        with self._guard:
            known = self._machines.get(vm_id)
            if known:
                if known.alive:
                    return known
                known.wait(0)  # its end is emitted before the next start
            found = machine.find(self._loop, vm_id, self._store.directory(vm_id), self._on_event)
            if found:
                self._machines[vm_id] = found
                if not found.wait_until_ready():
                    found = None
        if found:
            self._dispatcher.do(partial(self._finish_reboot, found))
        return found

    def _get(self, vm_id: str) -> Definition:
        definition = self._store.read(vm_id)
        if definition is None:
            raise not_found(vm_id)
        return definition

    def _get_running(self, vm_id: str) -> Machine:
        self._get(vm_id)
        live = self._machine(vm_id)
        if live is None:
            raise not_running(vm_id)
        return live

    def _write(self, definition: Definition) -> None:
        self._store.write(definition)
        self._emit(definition.vm_id, VmEventKind.DEFINED, "defined")

    def _emit(self, vm_id: str, kind: VmEventKind, detail: str) -> None:
        self._dispatcher.emit(vm_id, kind, detail, datetime.now(UTC))

    @contextmanager
    def _hold(self, vm_id: str) -> Iterator[None]:
        """Serializes changes of a VM."""
        with self._locks.setdefault(vm_id, threading.Lock()):
            yield

    def _on_event(self, live: Machine, event: str, data: Mapping[str, Any], time: datetime) -> None:
        """Called on the loop's thread."""
        if event == ENDED:
            self._dispatcher.emit(live.vm_id, VmEventKind.STOPPED, stopped_because(live.shutdown), time)
            self._dispatcher.do(partial(self._forget, live))
        elif event == RECONNECTED:
            self._dispatcher.reconnected()
        elif event == "SHUTDOWN":
            self._dispatcher.do(partial(self._finish_reboot, live))
        elif (kind := kind_of(event)) and not (live.shutdown and event in ("STOP", "RESUME")):
            self._dispatcher.emit(live.vm_id, kind, str(data.get("reason") or data.get("action") or ""), time)

    def _finish_reboot(self, live: Machine) -> None:
        """Resets a guest that shut down for a reboot: its process is still there."""
        try:
            if live.execute("query-status")["status"] == "shutdown":
                live.execute("set-action", {"shutdown": "poweroff"})
                live.execute("system_reset")
                live.execute("cont")
                live.shutdown = ""
        except OstlerError:
            if live.alive:
                raise

    def _forget(self, live: Machine) -> None:
        with self._guard:
            if self._machines.get(live.vm_id) is live:
                del self._machines[live.vm_id]
        live.close()


def _power_state(status: str) -> PowerState:
    return PowerState.PAUSED if status in _PAUSED else PowerState.RUNNING
