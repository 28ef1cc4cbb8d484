"""Resumes VMs that QEMU paused because a write to a disk failed.

QEMU keeps the failed write and repeats it when the VM is resumed. So a VM whose storage was full goes on as if nothing
had happened once there is space. The storage may also hang: everything that touches it runs in a thread of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

import libvirt
import structlog
from ostler_common.errors import OstlerError

from ostler_agent.bounded import BoundedCalls
from ostler_agent.hypervisors.libvirt import inventory
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.xml.disks import AttachedDisk

log = structlog.get_logger(__name__)

_TICK_S = 5.0
# With less than this the next write would find no space again.
MIN_FREE_BYTES = 64 << 20
_MIN_PAUSE_S, _MAX_PAUSE_S = 5.0, 300.0
# A VM that has run for so long since it was resumed is as new.
_RECOVERED_S = 60.0
_MEASURE_TIMEOUT_S = 5.0


@dataclass
class _Attempts:
    """Attempts to resume one VM."""

    pause_s: float = _MIN_PAUSE_S
    last_s: float = float("-inf")


class Stalls:
    """Resumes stalled VMs, from a thread of its own.

    A VM is resumed as soon as each file system with its disks has MIN_FREE_BYTES; if it stalls again, or the space is
    not known, after 5 seconds, then 10, and so on up to 300.
    """

    def __init__(
        self,
        connect: Callable[[], libvirt.virConnect],
        free_bytes: Callable[[str], int | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """free_bytes: of the file system with a path, None when unknown."""
        self._connect, self._clock = connect, clock
        self._free_bytes = free_bytes or FreeSpace().of
        self._attempts: dict[str, _Attempts] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stalled-vms", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * _MEASURE_TIMEOUT_S)

    def turn(self) -> None:
        """Resumes what is due now. Raises OstlerError when libvirt does not answer."""
        with translated("finding stalled VMs"):
            stalled = [domain for domain in self._connect().listAllDomains() if _is_stalled(domain)]
        now_s = self._clock()
        ids = {domain.UUIDString() for domain in stalled}
        self._attempts = {
            vm_id: attempts
            for vm_id, attempts in self._attempts.items()
            if vm_id in ids or now_s - attempts.last_s < _RECOVERED_S
        }
        for domain in stalled:
            self._resume(domain, self._attempts.setdefault(domain.UUIDString(), _Attempts()), now_s)

    def _resume(self, domain: libvirt.virDomain, attempts: _Attempts, now_s: float) -> None:
        if now_s - attempts.last_s < attempts.pause_s:
            return
        if not all(self._has_room(disk) for disk in inventory.active_disks(domain)):
            return
        vm_id = domain.UUIDString()
        if attempts.last_s > float("-inf"):
            attempts.pause_s = min(2 * attempts.pause_s, _MAX_PAUSE_S)
        attempts.last_s = now_s
        try:
            domain.resume()
        except libvirt.libvirtError as error:  # it was stopped meanwhile, or migrates
            log.warning("a VM that waits for its storage could not be resumed", vm=vm_id, reason=str(error))
            return
        log.info("resumed a VM that waited for its storage", vm=vm_id)

    def _has_room(self, disk: AttachedDisk) -> bool:
        free = self._free_bytes(disk.path)
        return free is None or free >= MIN_FREE_BYTES

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            try:
                self.turn()
            except OstlerError as error:
                log.info("stalled VMs cannot be found now", reason=str(error))
            except Exception:
                log.exception("resuming stalled VMs failed by a bug; it is tried again")


class FreeSpace:
    """Measures file systems that may hang."""

    def __init__(
        self, measure: Callable[[str], os.statvfs_result] = os.statvfs, timeout_s: float = _MEASURE_TIMEOUT_S
    ) -> None:
        self._measure, self._timeout_s = measure, timeout_s
        self._calls = BoundedCalls()

    def of(self, path: str) -> int | None:
        """Free bytes of the file system that a file is in; None: unknown, as of a device, or it does not answer."""
        if path.startswith("/dev/"):
            return None
        directory = str(PurePath(path).parent)
        try:
            sizes = self._calls.call(directory, lambda: self._measure(directory), self._timeout_s)
        except OSError:  # TimeoutError too
            return None
        return sizes.f_bavail * sizes.f_frsize


def _is_stalled(domain: libvirt.virDomain) -> bool:
    """Whether it is Ostler's, paused for an error of a disk, and not about to be on another host."""
    try:
        state, why = domain.state()
        stalled = state == libvirt.VIR_DOMAIN_PAUSED and why == libvirt.VIR_DOMAIN_PAUSED_IOERROR
        return stalled and not inventory.is_migrating_out(domain) and inventory.describe(domain).managed
    except libvirt.libvirtError:
        return False  # it has gone
