"""How fast guests write their memory, measured now and then.

QEMU samples some of a guest's pages, waits, and looks which of them have changed: cheap, but it takes a second, so one
VM at a time is measured, and each no more often than needed. libvirt has the call wait while it works on the VM, up to
half a minute during a migration, so that it is made by a thread of its own: nobody's load waits for it.
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


def _aside(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="dirty-rate", daemon=True).start()


class DirtyRates:
    """Has VMs measured. Called by whoever measures load, a few seconds apart, and safe to be called more often.

    run: starts the call, and does not wait for it.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, run: Callable[[Callable[[], None]], None] = _aside
    ) -> None:
        self._now = now
        self._run = run
        self._begun: dict[str, float] = {}
        self._calling = threading.Lock()

    def begin_next(self, domains: Iterable[Any]) -> None:
        """Has the VM measured whose last measurement is the longest ago, if it is long enough ago."""
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
            pass  # it stops, migrates, or its hypervisor is too old: tried again at its next turn
        finally:
            self._calling.release()


def rate_of(record: Mapping[str, Any]) -> int:
    """Bytes a second out of libvirt's record; 0 while nothing was measured."""
    if record.get("dirtyrate.calc_status") != libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED:
        return 0
    return max(0, int(record.get("dirtyrate.megabytes_per_second", 0))) * _MIB
