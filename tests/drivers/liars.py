"""Broken drivers: each breaks one rule of the driver contract, and the conformance suite must say which.

`LIARS` lists each with the check that catches it and a text of the finding.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from ostler_agent.hypervisors.base import Console, Listener, Paths, VmEvent, VmEventKind, VmSample
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.spec import PowerState, VmInfo, VmSpec
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function

from tests.drivers import backup_driver
from tests.drivers.process_driver import (
    SOUND,
    Definition,
    ProcessConsole,
    ProcessDriver,
    ProcessHypervisor,
)


class StopsOnClose(ProcessHypervisor):
    def close(self) -> None:
        for vm_id in self.ids():
            self.power_off(vm_id)
        super().close()


class DiesWithAgent(ProcessHypervisor):
    """The VM notices the end of the agent, and ends as well."""

    def launch(self, definition: Definition, parent: int = 0) -> None:
        super().launch(definition, os.getpid())


class ForgetsDefinitions(ProcessHypervisor):
    """Keeps definitions in memory: the directory is gone after a restart."""

    def __init__(self, info: DriverInfo, state_dir: Path) -> None:
        for path in state_dir.glob("*/definition.json"):
            path.unlink()
        super().__init__(info, state_dir)


class LocksInMemory(ProcessHypervisor):
    """The one-writer rule is known to this process only."""

    def launch(self, definition: Definition, parent: int = 0) -> None:
        for other in self.started:
            found = self.read(other)
            if found and self.running(other) and set(found.paths) & set(definition.paths):
                raise FailedPreconditionError("in use", "DISK_IN_USE")
        super().launch(replace(definition, paths=()), parent)
        for path in definition.paths:
            if not Path(path).exists():
                self.power_off(definition.vm_id)
                raise FailedPreconditionError("no such disk", "VOLUME_MISSING")
        self.started.append(definition.vm_id)

    def __init__(self, info: DriverInfo, state_dir: Path) -> None:
        self.started: list[str] = []
        super().__init__(info, state_dir)


class StartsTwice(ProcessHypervisor):
    """A second start creates a second process."""

    def start(self, spec: VmSpec, paths: Paths) -> None:
        if self.running(spec.vm_id):
            _leak()
        super().start(spec, paths)


class ProtectsFirstDiskOnly(ProcessHypervisor):
    def launch(self, definition: Definition, parent: int = 0) -> None:
        if not all(Path(path).exists() for path in definition.paths):
            raise FailedPreconditionError("no such disk", "VOLUME_MISSING")
        super().launch(replace(definition, paths=definition.paths[:1]), parent)


class LeavesFailedProcess(ProcessHypervisor):
    """A start that fails leaves a process behind."""

    def launch(self, definition: Definition, parent: int = 0) -> None:
        leaked = _leak()
        super().launch(definition, parent)
        leaked.kill()
        leaked.wait()


class LeavesDirectory(ProcessHypervisor):
    def delete(self, vm_id: str) -> None:
        super().delete(vm_id)
        self.directory(vm_id).mkdir(exist_ok=True)


class LeaksProcess(ProcessHypervisor):
    """Each start leaves a helper process."""

    def launch(self, definition: Definition, parent: int = 0) -> None:
        super().launch(definition, parent)
        _leak()


class BlocksInShutDown(ProcessHypervisor):
    def shut_down(self, vm_id: str) -> None:
        super().shut_down(vm_id)
        time.sleep(6)


class SlowSamples(ProcessHypervisor):
    def samples(self) -> list[VmSample]:
        time.sleep(2)
        return super().samples()


class RaisingConsole(ProcessConsole):
    def write(self, data: bytes) -> None:
        if self.closed:
            raise BrokenPipeError("foreign")
        super().write(data)


class RaisesInWrite(ProcessHypervisor):
    def connect(self, vm_id: str) -> ProcessConsole:
        return RaisingConsole(self.directory(vm_id))


class MissesEnd(ProcessHypervisor):
    """No event when a VM ends by itself."""

    def ended(self, vm_id: str, detail: str) -> None:
        if detail == "destroyed":
            super().ended(vm_id, detail)
        self.watched.discard(vm_id)


class CallsBackInCaller(ProcessHypervisor):
    """Listeners are called on the caller's thread."""

    def emit(self, vm_id: str, kind: VmEventKind, detail: str) -> None:
        from datetime import UTC, datetime

        for listener in list(self.listeners):
            listener.vm_event(VmEvent(kind, self.vm(vm_id), detail, datetime.now(UTC)))


class ListsTwice(ProcessHypervisor):
    def vms(self) -> list[VmInfo]:
        return super().vms() * 2


class RedefinesRunning(ProcessHypervisor):
    def define(self, spec: VmSpec, paths: Paths) -> None:
        self.write(spec, paths)


class DeletesRunning(ProcessHypervisor):
    def delete(self, vm_id: str) -> None:
        self.power_off(vm_id)
        super().delete(vm_id)


class UndefinesOnPowerOff(ProcessHypervisor):
    def power_off(self, vm_id: str) -> None:
        super().power_off(vm_id)
        super().delete(vm_id)


class DeletesVolumes(ProcessHypervisor):
    def delete(self, vm_id: str) -> None:
        found = self.read(vm_id)
        super().delete(vm_id)
        for path in found.paths if found else ():
            Path(path).unlink(missing_ok=True)


class SharesConsole(ProcessHypervisor):
    def console(self, vm_id: str, force: bool) -> Console:
        return super().console(vm_id, force=True)


class RaisesForeignErrors(ProcessHypervisor):
    def shut_down(self, vm_id: str) -> None:
        raise KeyError(vm_id)


class RepeatsEvents(ProcessHypervisor):
    def emit(self, vm_id: str, kind: VmEventKind, detail: str) -> None:
        super().emit(vm_id, kind, detail)
        super().emit(vm_id, kind, detail)


class KeepsListeners(ProcessHypervisor):
    def subscribe(self, listener: Listener) -> Callable[[], None]:
        super().subscribe(listener)
        return lambda: None


class TellsOneListener(ProcessHypervisor):
    def _dispatch(self) -> None:
        while event := self._events.get():
            for listener in self.listeners[:1]:
                listener.vm_event(event)


class StartsAsDefined(ProcessHypervisor):
    """Starts a VM as it was defined before, not as the start says."""

    def start(self, spec: VmSpec, paths: Paths) -> None:
        with self.lock:
            if self.running(spec.vm_id):
                return
            self.launch(self.read(spec.vm_id) or self.write(spec, paths))
            self.watched.add(spec.vm_id)
            self.emit(spec.vm_id, VmEventKind.STARTED, "booted")


class UsesStopped(ProcessHypervisor):
    """A stopped VM counts as a user of its volumes."""

    def using(self, volume_id: str) -> str | None:
        return next((vm.vm_id for vm in self.vms() if volume_id in vm.volume_ids), None)


class FailsPowerOffOfUnknown(ProcessHypervisor):
    def power_off(self, vm_id: str) -> None:
        self.need(vm_id)
        super().power_off(vm_id)


class Deadlocks(ProcessHypervisor):
    """Two VMs cannot start at the same time: the second one is refused."""

    def start(self, spec: VmSpec, paths: Paths) -> None:
        if not self.gate.acquire(blocking=False):
            raise RuntimeError("busy")
        try:
            super().start(spec, paths)
        finally:
            self.gate.release()

    def __init__(self, info: DriverInfo, state_dir: Path) -> None:
        self.gate = threading.Lock()
        super().__init__(info, state_dir)


class CannotCleanUp(ProcessHypervisor):
    """Neither stops nor deletes a VM that has run."""

    def power_off(self, vm_id: str) -> None:
        if self.running(vm_id):
            raise FailedPreconditionError("it will not stop", "STUCK")

    def vm(self, vm_id: str) -> VmInfo:
        found = super().vm(vm_id)
        return replace(found, cpus=99) if found.power_state is PowerState.RUNNING else found


class AcceptsAnyOption(ProcessDriver):
    def open(self, context: DriverContext) -> ProcessHypervisor:
        return super().open(replace(context, options={}))


@dataclass(frozen=True)
class Liar:
    """A broken driver. check: the check that catches it; finding: part of what the check says."""

    driver: ProcessDriver
    check: str
    finding: str


def _liar(hypervisor: type[ProcessHypervisor], check: str, finding: str) -> Liar:
    return Liar(ProcessDriver(hypervisor), check, finding)


def _backup_liar(hypervisor: type[ProcessHypervisor], finding: str) -> Liar:
    return Liar(ProcessDriver(hypervisor, backup_driver.INFO), "incremental-backup.since", finding)


LIARS = {
    "stops-on-close": _liar(StopsOnClose, "restart.close", "must run after an orderly restart"),
    "dies-with-agent": _liar(DiesWithAgent, "restart.running", "after the agent was killed"),
    "forgets-definitions": _liar(ForgetsDefinitions, "restart.definition", "must find the definition"),
    "locks-in-memory": _liar(LocksInMemory, "restart.one-writer", "must be refused with DISK_IN_USE"),
    "starts-twice": _liar(StartsTwice, "vm.second-start", "the second start of a running VM must leave no further"),
    "protects-first-disk-only": _liar(ProtectsFirstDiskOnly, "vm.one-writer-each", "must be refused with DISK_IN_USE"),
    "leaves-failed-process": _liar(LeavesFailedProcess, "vm.failed-start", "a start that failed must leave no further"),
    "leaves-directory": _liar(LeavesDirectory, "vm.leftovers", "must leave no files"),
    "leaks-process": _liar(LeaksProcess, "vm.leftovers", "must leave no further process"),
    "blocks-in-shut-down": _liar(BlocksInShutDown, "vm.shut-down", "must return at once"),
    "slow-samples": _liar(SlowSamples, "vm.samples", "must return within"),
    "raises-in-write": _liar(RaisesInWrite, "console.one-holder", "console.write must not raise BrokenPipeError"),
    "misses-end": _liar(MissesEnd, "vm.killed", "listeners must receive STOPPED or CRASHED"),
    "calls-back-in-caller": _liar(CallsBackInCaller, "vm.events", "a thread of the driver's own"),
    "lists-twice": _liar(ListsTwice, "vm.define", "must be listed once"),
    "redefines-running": _liar(RedefinesRunning, "vm.refuse-running", "define must be refused with VM_RUNNING"),
    "deletes-running": _liar(DeletesRunning, "vm.refuse-running", "delete must be refused with VM_RUNNING"),
    "undefines-on-power-off": _liar(UndefinesOnPowerOff, "vm.power-off", "must be reported as"),
    "deletes-volumes": _liar(DeletesVolumes, "vm.power-off", "must not delete its volumes"),
    "shares-console": _liar(SharesConsole, "console.one-holder", "must be refused with CONSOLE_BUSY"),
    "raises-foreign-errors": _liar(RaisesForeignErrors, "vm.unknown", "KeyError"),
    "repeats-events": _liar(RepeatsEvents, "vm.events", "must come once and in order"),
    "keeps-listeners": _liar(KeepsListeners, "vm.events", "an unsubscribed listener must receive no events"),
    "tells-one-listener": _liar(TellsOneListener, "vm.events", "the event STARTED"),
    "starts-as-defined": _liar(StartsAsDefined, "vm.start", "must be reported as"),
    "uses-stopped": _liar(UsesStopped, "vm.define", "a stopped VM uses no volume"),
    "fails-power-off-of-unknown": _liar(FailsPowerOffOfUnknown, "vm.unknown", "VM_NOT_FOUND"),
    "deadlocks": _liar(Deadlocks, "vm.at-once", "RuntimeError: busy"),
    "cannot-clean-up": _liar(CannotCleanUp, "vm.start", "must be reported as"),
    "states-too-much": Liar(
        ProcessDriver(info=replace(SOUND.info, functions=SOUND.info.functions | {Function.REBOOT})),
        "statement.parts",
        "it states reboot but lacks the calls of Reboot",
    ),
    "increments-copy-all": _backup_liar(backup_driver.CopiesAll, "must not have what was not written since"),
    "increments-lose-writes": _backup_liar(backup_driver.LosesWrites, "must have what was written since"),
    "increments-without-record": _backup_liar(backup_driver.KeepsNoRecord, "must be copied as an increment"),
    "increments-on-any": _backup_liar(backup_driver.BuildsOnAny, "without a record must be copied whole"),
    "increments-without-reason": _backup_liar(backup_driver.TellsNoReason, "and the reason said"),
    "states-increments-only": Liar(
        ProcessDriver(info=replace(SOUND.info, functions=SOUND.info.functions | {Function.INCREMENTAL_BACKUP})),
        "statement.parts",
        "it states incremental-backup but lacks the calls of IncrementalBackup",
    ),
    "accepts-any-option": Liar(AcceptsAnyOption(), "statement.options", "must raise ConfigError"),
}


def _leak() -> subprocess.Popen[bytes]:
    """A process that mentions neither the VM nor its files."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    return subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(60)"], start_new_session=True)


# By the names of their entry points.
DRIVERS = SimpleNamespace(
    sound=SOUND,
    sound_backup=backup_driver.SOUND_BACKUP,
    **{name.replace("-", "_"): liar.driver for name, liar in LIARS.items()},
)
