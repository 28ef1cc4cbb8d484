"""Measures how fast guests write their memory.

QEMU samples some of a guest's pages, waits, and counts those that have changed. That is cheap but takes a second, so
the driver measures one VM at a time, at long intervals. During other work on the VM, e.g. a migration, libvirt may
block the call for half a minute: it runs in its own thread, so that load reports do not wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import libvirt

INTERVAL_S = 120.0
_PERIOD_S = 1
_MIB = 1 << 20


def _in_background(function: Callable[[], None]) -> None:
    threading.Thread(target=function, name="dirty-rate", daemon=True).start()


class DirtyRates:
    """Schedules the measurements. Thread-safe; called with every load report.

    run: starts a call in the background.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, run: Callable[[Callable[[], None]], None] = _in_background
    ) -> None:
        self._now = now
        self._run = run
        self._begun: dict[str, float] = {}
        self._calling = threading.Lock()

    def begin_next(self, domains: Iterable[Any]) -> None:
        """Starts measuring the VM with the oldest measurement, if that is older than INTERVAL_S."""
        running = {domain.UUIDString(): domain for domain in domains}
        self._begun = {vm_id: begun for vm_id, begun in self._begun.items() if vm_id in running}
        if not running:
            return
        vm_id = min(running, key=lambda one: self._begun.get(one, float("-inf")))
        if self._now() - self._begun.get(vm_id, float("-inf")) < INTERVAL_S or not self._calling.acquire(
            blocking=False
        ):
            return
        self._begun[vm_id] = self._now()
        self._run(lambda: self._call(running[vm_id]))

    def _call(self, domain: Any) -> None:
        try:
            domain.startDirtyRateCalc(_PERIOD_S)
        except libvirt.libvirtError:
            pass  # the VM stops or migrates, or QEMU is too old: retried at its next turn
        finally:
            self._calling.release()


def rate_of(record: Mapping[str, Any]) -> int:
    """Bytes per second from libvirt's record; 0 if not measured."""
    if record.get("dirtyrate.calc_status") != libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED:
        return 0
    return max(0, int(record.get("dirtyrate.megabytes_per_second", 0))) * _MIB
