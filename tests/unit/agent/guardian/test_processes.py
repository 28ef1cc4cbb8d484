"""Real processes: a guardian, a VM's process, storage that hangs, and signals."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ostler_agent.guardian.desk import State
from ostler_agent.guardian.hold import END_S
from ostler_agent.hypervisors.libvirt.ending import QemuEnder

from tests.unit.agent.guardian.place import VM, desk, hang, pool
from tests.unit.agent.guardian.process import HOLD_S

pytestmark = pytest.mark.slow

# Where nothing may end although the machine is busy with other things.
PATIENT_S = 8.0
STATUS = """<domstatus state='running' reason='booted' pid='{pid}'>
  <domain type='kvm' id='1'>
    <name>{vm_id}</name>
    <uuid>{vm_id}</uuid>
    <metadata>{marker}</metadata>
  </domain>
</domstatus>
"""
MARKER = "<ostler:vm xmlns:ostler='urn:ostler:vm:1'/>"


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"{what}: it did not come"
        time.sleep(0.01)


class Machine:
    """A guardian and a process in the place of a QEMU."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.desk, self.wish = desk(root), pool(root / "pool")
        (root / "libvirt").mkdir()
        self.notify = root / "notify"
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(self.notify))
        self.children: list[subprocess.Popen[bytes]] = []
        self.vm = self.start_vm(VM)

    def start_vm(self, vm_id: str, marker: str = MARKER) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(["sh", "-c", "sleep 600; exit", "qemu", "-uuid", vm_id], start_new_session=True)
        self.children.append(child)
        # Popen returns while the kernel still executes the program: until that is done there are no arguments.
        cmdline = Path(f"/proc/{child.pid}/cmdline")
        until(lambda: vm_id.encode() in cmdline.read_bytes().split(b"\0"), "the arguments of the process")
        text = STATUS.format(pid=child.pid, vm_id=vm_id, marker=marker)
        (self.root / f"libvirt/{vm_id}.xml").write_text(text)
        return child

    def start_guardian(self, hold_s: float = HOLD_S) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.unit.agent.guardian.process", str(self.root), str(hold_s)]
        environment = {**os.environ, "NOTIFY_SOCKET": str(self.notify)}
        child = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
        self.children.append(child)
        return child

    def guard(self, hold_s: float = HOLD_S) -> subprocess.Popen[bytes]:
        self.desk.set_wish(self.wish)
        guardian = self.start_guardian(hold_s)
        until(lambda: self.state() is State.GUARDING, "a guardian that guards")
        return guardian

    def state(self) -> State | None:
        status = self.desk.status()
        return status.state if status else None

    def number(self) -> int:
        status = self.desk.status()
        return status.number if status else 0

    def grant(self) -> None:
        status = self.desk.status()
        assert status is not None
        self.desk.set_grant(status.stamp)

    def stop(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        self.systemd.close()

    def said(self, word: bytes, within_s: float) -> bool:
        """Whether a guardian says a word to systemd within this time."""
        end = time.monotonic() + within_s
        while (left := end - time.monotonic()) > 0:
            self.systemd.settimeout(left)
            try:
                if word in self.systemd.recv(4096):
                    return True
            except TimeoutError:
                pass
        return False


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.stop()


def test_only_ostlers_vms_are_ended(machine: Machine, tmp_path: Path) -> None:
    foreign = machine.start_vm("99999999-9999-4999-8999-999999999999", marker="")
    gone = machine.start_vm("88888888-8888-4888-8888-888888888888")
    gone.kill()
    gone.wait()
    (tmp_path / "libvirt/broken.xml").write_text("<domstatus")
    ender = QemuEnder(tmp_path / "libvirt")
    assert ender.running() == [VM]
    assert ender.end() == [VM]
    assert machine.vm.wait(10) == -signal.SIGKILL
    assert foreign.poll() is None
    assert ender.end() == []


def test_a_number_that_another_process_has_now_hits_nobody(machine: Machine, tmp_path: Path) -> None:
    text = STATUS.format(pid=machine.vm.pid, vm_id="77777777-7777-4777-8777-777777777777", marker=MARKER)
    (tmp_path / f"libvirt/{VM}.xml").write_text(text)
    assert QemuEnder(tmp_path / "libvirt").end() == []
    assert machine.vm.poll() is None


def test_a_vm_ends_when_the_storage_hangs_and_nobody_grants(machine: Machine) -> None:
    """As with an agent that is stopped by SIGSTOP: no grant comes through."""
    machine.guard()
    hang(machine.wish.place)
    assert machine.vm.wait(30) == -signal.SIGKILL
    until(lambda: machine.state() is State.ENDED, "the end")


def test_grants_keep_the_vm_while_the_storage_hangs(machine: Machine) -> None:
    guardian = machine.guard(PATIENT_S)
    hang(machine.wish.place)
    end = time.monotonic() + 1.5 * PATIENT_S
    while time.monotonic() < end:
        machine.grant()
        time.sleep(0.1)
    assert (machine.vm.poll(), guardian.poll()) == (None, None)
    assert machine.vm.wait(30) == -signal.SIGKILL, "and no longer"


def test_the_lease_keeps_the_vm_without_grants(machine: Machine) -> None:
    machine.guard(PATIENT_S)
    before = machine.number()
    end = time.monotonic() + 1.5 * PATIENT_S
    until(lambda: time.monotonic() > end, "longer than the hold")
    assert machine.number() > before
    assert machine.vm.poll() is None


def test_a_guardian_that_was_stopped_for_too_long_ends_the_vm_when_it_goes_on(machine: Machine) -> None:
    """SIGSTOP, as when the machine is frozen: the storage takes every write again, and the VM ends all the same."""
    guardian = machine.guard()
    guardian.send_signal(signal.SIGSTOP)
    time.sleep(HOLD_S + 1)
    assert machine.vm.poll() is None
    guardian.send_signal(signal.SIGCONT)
    assert machine.vm.wait(30) == -signal.SIGKILL
    until(lambda: machine.state() is State.ENDED, "the end")


def test_the_next_guardian_ends_what_a_hanging_one_left(machine: Machine) -> None:
    """SIGSTOP, and then what systemd's watchdog does: SIGKILL and a new start."""
    guardian = machine.guard()
    guardian.send_signal(signal.SIGSTOP)
    time.sleep(HOLD_S + 1)
    guardian.kill()
    machine.start_guardian()
    assert machine.vm.wait(30) == -signal.SIGKILL


def test_systemds_watchdog_is_fed_by_nothing_but_the_look_at_the_clock(machine: Machine) -> None:
    """So systemd kills a guardian that hangs, and the next one ends the VM."""
    unit = (Path(__file__).parents[4] / "systemd/ostler-guardian.service").read_text()
    watchdog_s = float(re.findall(r"^WatchdogSec=(\d+)$", unit, re.MULTILINE)[0])
    assert watchdog_s + 5 < END_S, "there is time for the next one"
    guardian = machine.guard(hold_s=2)
    assert machine.said(b"READY=1", 30)
    for _ in range(5):
        assert machine.said(b"WATCHDOG=1", watchdog_s)
    guardian.send_signal(signal.SIGSTOP)
    while machine.said(b"WATCHDOG=1", 0.2):
        pass  # sent before
    assert not machine.said(b"WATCHDOG=1", watchdog_s)
    assert machine.vm.poll() is None
    guardian.kill()
    machine.start_guardian(hold_s=2)
    assert machine.vm.wait(30) == -signal.SIGKILL
    assert machine.said(b"READY=1", 30)


def test_a_guardian_that_is_killed_and_started_again_in_time_ends_nothing(machine: Machine) -> None:
    guardian = machine.guard(hold_s=60)
    before = machine.desk.status()
    guardian.kill()
    guardian.wait()
    machine.start_guardian(hold_s=60)
    until(lambda: machine.number() > (before.number if before else 0) + 10, "renewals")
    after = machine.desk.status()
    assert before is not None
    assert after is not None
    assert (machine.vm.poll(), after.term) == (None, before.term)
