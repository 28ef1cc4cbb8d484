"""Runs the probes: at start, on demand, and when something was installed or removed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from ostler_common.hypervisors import Function

from ostler_agent.capabilities import conversion, encryption, network, packages
from ostler_agent.capabilities.facts import Capabilities, HypervisorFacts, Probe
from ostler_agent.hypervisors.info import DriverInfo

log = structlog.get_logger(__name__)


def probe_all(
    driver: DriverInfo, facts: HypervisorFacts, pool_types: tuple[str, ...], virtio_win: Path, scratch: Path
) -> Capabilities:
    """Everything, tried now: a few seconds. facts: what the driver found; what it has no use for is not tried."""
    probes: list[Probe] = list(facts.probes)
    if Function.VOLUME_ENCRYPTION in driver.functions:
        probes += encryption.probe(scratch)
    if Function.INSTANCE_CONVERSION in driver.functions:
        probes += conversion.probe(virtio_win)
    return Capabilities(
        driver=driver,
        hypervisor=facts,
        bridges=network.bridges() if Function.NICS in driver.functions else (),
        pool_types=pool_types,
        probes=tuple(probes),
    )


class Prober:
    """Keeps the last outcome, and a thread that looks for changes. Listeners hear of outcomes that differ."""

    def __init__(
        self,
        probe: Callable[[], Capabilities],
        *,
        stamp: Callable[[], object] = packages.stamp,
        interval_s: float = 60,
    ) -> None:
        self._probe = probe
        self._stamp = stamp
        self._interval_s = interval_s
        self._seen = stamp()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Capabilities], None]] = []
        self._wake = threading.Event()
        self._stopping = False
        self._asked = False
        self._thread = threading.Thread(target=self._watch, name="probe", daemon=True)
        self._current = probe()

    def current(self) -> Capabilities:
        """The last outcome."""
        return self._current

    def probe(self) -> Capabilities:
        """Tries everything anew; callers at the same time wait for one another."""
        with self._lock:
            found = self._probe()
            changed, self._current = found != self._current, found
        if changed:
            log.info(
                "capabilities changed",
                volume_encryption=found.volume_encryption,
                failed=", ".join(probe.name for probe in found.probes if not probe.ok),
            )
            for listener in list(self._listeners):
                listener(found)
        return found

    def subscribe(self, listener: Callable[[Capabilities], None]) -> Callable[[], None]:
        """Calls back, from some thread, when an outcome differs from the last; the result ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def check_for_changes(self) -> bool:
        """Probes anew if something was installed or removed since the last look; returns whether it was."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        self.probe()
        return True

    def start(self) -> None:
        self._thread.start()

    def request_probe(self) -> None:
        """Has everything tried anew soon, by the prober's own thread."""
        self._asked = True
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            try:
                if self._asked:
                    self._asked = False
                    self.probe()
                elif not self._stopping:
                    self.check_for_changes()
            except Exception:
                log.exception("looking for changed packages failed")
