"""The open driver: `ostler_agent.hypervisors.base.Hypervisor`, the core and nothing else.

A VM is a directory with its definition. It runs if its keeper runs. There is no other state, so that every run of the
agent finds everything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ostler_agent.files import write_file
from ostler_agent.hypervisors.base import Console, Listener, Paths, VmEventKind, VmSample
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.hypervisors.toolkit.console import Consoles
from ostler_agent.hypervisors.toolkit.events import Events
from ostler_agent.spec import PowerState, VmInfo, VmSpec
from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError

from ostler_nspawn_driver import cgroups, keeper, machine
from ostler_nspawn_driver.definition import Definition, Disk, Nic, Store


class NspawnHypervisor:
    """state_dir: contains the VMs' directories."""

    def __init__(self, info: DriverInfo, state_dir: Path) -> None:
        self._info = info
        self._store = Store(state_dir, write_file)
        self._consoles = Consoles()
        self._events = Events(self._list, self._stopped)
        self._locks: dict[str, threading.Lock] = {}
        self._listing = threading.Lock()
        self._list()  # what an earlier run of the agent started is known from here on
        self._events.start()

    @property
    def info(self) -> DriverInfo:
        return self._info

    def close(self) -> None:
        self._events.close()
        self._consoles.close()

    # -- inventory

    def vm(self, vm_id: str) -> VmInfo:
        definition = self._store.read(vm_id)
        if definition is None:
            return VmInfo(vm_id, "", PowerState.ABSENT, cpus=0, memory_bytes=0, volume_ids=(), managed=False)
        return VmInfo(
            vm_id,
            definition.name,
            PowerState.RUNNING if self.running(vm_id) else PowerState.STOPPED,
            definition.cpus,
            definition.memory_bytes,
            tuple(disk.volume_id for disk in definition.disks),
            managed=True,
        )

    def vms(self) -> list[VmInfo]:
        found = (self.vm(vm_id) for vm_id in self._store.ids())
        return [vm for vm in found if vm.power_state is not PowerState.ABSENT]

    def running(self, vm_id: str) -> bool:
        return machine.find(self._store.directory(vm_id)) is not None

    def using(self, volume_id: str) -> str | None:
        return next(
            (vm.vm_id for vm in self.vms() if volume_id in vm.volume_ids and vm.power_state is PowerState.RUNNING), None
        )

    def samples(self) -> list[VmSample]:
        running = [vm_id for vm_id in self._store.ids() if self.running(vm_id)]
        return [
            VmSample(vm_id, cpu_time_ns, memory_bytes + keeper.OWN_BYTES, guest_used_bytes=0)
            for vm_id in running
            for cpu_time_ns, memory_bytes in [cgroups.usage(vm_id)]
        ]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._events.subscribe(listener)

    # -- definition and power

    def define(self, spec: VmSpec, paths: Paths) -> None:
        with self._hold(spec.vm_id, "defined"):
            if self.running(spec.vm_id):
                raise _running(spec.vm_id, "stop it before you replace its definition")
            self._store.write(_definition(spec, paths))

    def start(self, spec: VmSpec, paths: Paths) -> None:
        directory = self._store.directory(spec.vm_id)
        with self._hold(spec.vm_id, "booted"):
            if not machine.wait_until_started(directory):
                self._store.write(_definition(spec, paths))
                machine.start(directory)

    def shut_down(self, vm_id: str) -> None:
        self._need(vm_id)
        machine.ask(self._store.directory(vm_id))

    def power_off(self, vm_id: str) -> None:
        with self._hold(vm_id, "destroyed"):
            machine.end(self._store.directory(vm_id))

    def delete(self, vm_id: str) -> None:
        with self._hold(vm_id, "removed"):
            if self.running(vm_id):
                raise _running(vm_id, "stop it before you delete it")
            if definition := self._store.read(vm_id):
                for nic in definition.nics:
                    keeper.leave(nic)
                cgroups.remove(vm_id)
                self._store.remove(vm_id)

    def console(self, vm_id: str, force: bool) -> Console:
        self._need(vm_id)
        directory = self._store.directory(vm_id)
        if not machine.wait_until_started(directory):
            raise FailedPreconditionError(
                f"VM {vm_id} is not running (start it first)", "VM_NOT_RUNNING", {"vm": vm_id}
            )
        return self._consoles.open(vm_id, directory / keeper.CONSOLE, force)

    # -- internals

    def _need(self, vm_id: str) -> Definition:
        definition = self._store.read(vm_id)
        if definition is None:
            raise NotFoundError(f"VM {vm_id} is not on this host", "VM_NOT_FOUND", {"vm": vm_id})
        return definition

    @contextmanager
    def _hold(self, vm_id: str, detail: str) -> Iterator[None]:
        """Serializes changes of a VM, and emits the events of what the block did. detail: their cause."""
        with self._locks.setdefault(vm_id, threading.Lock()):
            self._list()
            yield
            self._list(vm_id, detail)

    def _list(self, changed: str = "", detail: str = "") -> list[VmInfo]:
        with self._listing:
            listed = self.vms()
            self._events.compare(listed, changed, detail)
            return listed

    def _stopped(self, vm_id: str) -> tuple[VmEventKind, str]:
        self._consoles.close_of(vm_id)
        how = machine.how_it_ended(self._store.directory(vm_id))
        return (VmEventKind.STOPPED if machine.is_orderly(how) else VmEventKind.CRASHED), how or "signal-SIGKILL"


def _definition(spec: VmSpec, paths: Paths) -> Definition:
    """The agent has refused what the driver does not state (UEFI, encryption, qcow2, user data)."""
    disks = sorted(spec.disks, key=lambda disk: disk.slot)
    return Definition(
        spec.vm_id,
        spec.name,
        spec.cpus,
        spec.memory_bytes,
        tuple(Disk(disk.volume.volume_id, str(paths(disk.volume))) for disk in disks),
        tuple(Nic(nic.mac, nic.bridge) for nic in spec.nics),
    )


def _running(vm_id: str, advice: str) -> OstlerError:
    return FailedPreconditionError(f"VM {vm_id} is running ({advice})", "VM_RUNNING", {"vm": vm_id})
