"""What is done behind Ostler's back: an admin of hosts moves, stops, starts and undefines VMs by hand, and later puts
right what came of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Set
from typing import Any

from ostler_control import database
from ostler_control.models import Vm, VmState
from ostler_control.outage import wait_out

from tests.fakes.machines import Machine
from tests.fakes.working_agent import FakeHost
from tests.sites import Site

PATIENCE_S = 30.0  # with an operation that holds the VM


class Moves:
    """vms: ids of those that were ever touched; stopped: of those that were powered off."""

    def __init__(self, site: Site, ended: Set[str] = frozenset()) -> None:
        """ended: ids of VMs that lost their host's power."""
        self._fleet = site.fleet
        self._hosts = [site.hosts["h1"], site.hosts["h2"]]
        self.vms: set[str] = set()
        self.stopped: set[str] = set()
        self._ended = ended

    def move(self, dice: random.Random) -> str:
        """Moves a running VM to the other host. Returns its id, "" if none runs."""
        with self._fleet.lock:
            running = sorted(
                (vm_id, source, target)
                for source, target in ((0, 1), (1, 0))
                for vm_id, vm in self._hosts[source].vms.items()
                if vm.running and not vm.migrating and vm_id not in self._hosts[target].vms
                if self._hosts[target].powered
            )
            if not running:
                return ""
            vm_id, source, target = dice.choice(running)
            self.vms.add(vm_id)
            _carry(vm_id, self._hosts[source], self._hosts[target])
            return vm_id

    def stop(self, dice: random.Random) -> str:
        """Powers a running VM off. Returns its id, "" if none runs."""
        with self._fleet.lock:
            found = self._any(dice, lambda vm: vm.running and not vm.migrating)
            if found is None:
                return ""
            vm_id, host = found
            self.stopped.add(vm_id)
            _power_off(vm_id, host)
            return vm_id

    def start(self, dice: random.Random) -> str:
        """Starts a VM that is defined and runs nowhere. Returns its id, "" if there is none."""
        with self._fleet.lock:
            found = self._any(dice, lambda vm: not vm.running)
            if found is None or self._fleet.running_on(found[0]):
                return ""
            _power_on(*found)
            return found[0]

    def undefine(self, dice: random.Random) -> str:
        """Deletes the definition of a VM that does not run, and need not. Returns its id, "" if there is none."""
        with self._fleet.lock:
            to_run = self.stopped | self._ended
            found = self._any(dice, lambda vm: not vm.running and vm.spec.vm_id not in to_run)
            if found is None:
                return ""
            vm_id, host = found
            del host.vms[vm_id]
            return vm_id

    def _any(self, dice: random.Random, suits: Callable[[Machine], bool]) -> tuple[str, FakeHost] | None:
        """A VM that suits, and the host that has it."""
        found = [
            (vm_id, host)
            for host in self._hosts
            for vm_id in sorted(host.vms)
            if host.powered and suits(host.vms[vm_id])
        ]
        if not found:
            return None
        vm_id, host = dice.choice(found)
        self.vms.add(vm_id)
        return vm_id, host

    def put_right(self, vm_id: str) -> None:
        """Brings a VM back to where Ostler has it. One that Ostler knows stopped, failed or deleted is powered off; one
        that was stopped by hand and is to run is powered on. One whose place Ostler does not know, since its migration
        broke off, is left alone."""
        end = time.monotonic() + PATIENCE_S
        while True:
            row = wait_out(lambda: _row(vm_id), time.sleep)
            if row is None or not (row.operation_id or row.state is VmState.MIGRATING):
                break
            if time.monotonic() > end:
                return
            time.sleep(0.1)
        with self._fleet.lock:
            for host in self._hosts:
                if vm_id in host.vms and (row is None or host.host_id != (row.host_id or row.last_host_id)):
                    self._bring_home(vm_id, row, host)
            if row is not None and row.state is not VmState.RUNNING:
                for host in self._hosts:
                    if _runs(vm_id, host):
                        self.stopped.add(vm_id)  # Ostler may be starting it just now
                        _power_off(vm_id, host)
            elif row is not None and vm_id in self.stopped and not self._fleet.running_on(vm_id):
                for host in self._hosts:
                    if host.host_id == row.host_id and vm_id in host.vms and host.powered:
                        _power_on(vm_id, host)

    def _bring_home(self, vm_id: str, row: Any, host: FakeHost) -> None:
        home = next((one for one in self._hosts if row and one.host_id == (row.host_id or row.last_host_id)), None)
        if home is not None and home.powered and not _runs(vm_id, home):
            _carry(vm_id, host, home)
        else:
            _power_off(vm_id, host)
            del host.vms[vm_id]


def _row(vm_id: str) -> Any:
    with database.session():
        return Vm.get_or_none(Vm.id == vm_id)


def _runs(vm_id: str, host: FakeHost) -> bool:
    return vm_id in host.vms and host.vms[vm_id].running


def _carry(vm_id: str, source: FakeHost, target: FakeHost) -> None:
    machine = source.vms.pop(vm_id)
    keys = {disk.volume.key.key_id for disk in machine.spec.disks}
    target.secrets |= keys & source.secrets
    source.secrets -= keys
    target.vms[vm_id] = machine


def _power_off(vm_id: str, host: FakeHost) -> None:
    if vm_id in host.vms:
        host.vms[vm_id].running = False
        host.secrets -= {disk.volume.key.key_id for disk in host.vms[vm_id].spec.disks}


def _power_on(vm_id: str, host: FakeHost) -> None:
    machine = host.vms[vm_id]
    host.secrets |= {disk.volume.key.key_id for disk in machine.spec.disks}
    machine.running = True
