"""Ends Ostler's VMs without libvirt, which may hang: their QEMU processes are killed.

libvirt keeps the state of each VM that runs in a file in memory, from before QEMU starts until after it has ended. The
file has the process's number and our marker. A process is killed only if it has the VM's id among its arguments, and by
a descriptor, so that a number that was given to another process meanwhile hits nobody.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ostler_agent.hypervisors.libvirt.xml.metadata import is_managed

RUN_DIR = Path("/run/libvirt/qemu")


@dataclass(frozen=True)
class _Vm:
    """A VM that runs, as libvirt's file says."""

    vm_id: str
    pid: int


class QemuEnder:
    """run_dir: libvirt's files; proc: where processes are seen."""

    def __init__(self, run_dir: Path = RUN_DIR, proc: Path = Path("/proc")) -> None:
        self._run_dir = run_dir
        self._proc = proc

    def running(self) -> Sequence[str]:
        """Ids of Ostler's VMs whose QEMU is there."""
        found = []
        for vm in self._vms():
            with self._process(vm) as process:
                if process is not None:
                    found.append(vm.vm_id)
        return found

    def end(self) -> Sequence[str]:
        """Kills every QEMU of Ostler's; returns the ids of the VMs."""
        ended = []
        for vm in self._vms():
            with self._process(vm) as process:
                if process is not None:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    ended.append(vm.vm_id)
        return ended

    def _vms(self) -> list[_Vm]:
        found = [_read(path) for path in sorted(self._run_dir.glob("*.xml"))]
        return [vm for vm in found if vm is not None]

    @contextmanager
    def _process(self, vm: _Vm) -> Iterator[int | None]:
        """A descriptor of the VM's process; None when it has ended."""
        try:
            process = os.pidfd_open(vm.pid)
        except (OSError, ValueError):
            yield None
            return
        try:
            yield process if self._is_qemu(vm) else None
        except ProcessLookupError:  # it ended meanwhile
            pass
        finally:
            os.close(process)

    def _is_qemu(self, vm: _Vm) -> bool:
        """Looked at after the descriptor was opened. A process that has ended has no arguments any more."""
        try:
            words = (self._proc / str(vm.pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return b"-uuid" in words and vm.vm_id.encode() in words


def _read(path: Path) -> _Vm | None:
    """The VM of a file if it is Ostler's; None for any other, and for a file that vanished."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
        domain = root.find("domain")
        if domain is None or not is_managed(domain):
            return None
        return _Vm(domain.findtext("uuid", ""), int(root.get("pid", "")))
    except (OSError, ElementTree.ParseError, ValueError):
        return None
