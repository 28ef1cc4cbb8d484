"""Runs the probes: at the start, on demand, and when installed software changes."""

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
    """Runs all probes, which takes a few seconds. facts: from the driver; skips what the driver does not use."""
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
    """Keeps the last result, and watches for changes in its own thread. Listeners receive changed results."""

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
        self._requested = False
        self._thread = threading.Thread(target=self._watch, name="probe", daemon=True)
        self._current = probe()

    def current(self) -> Capabilities:
        """The last result."""
        return self._current

    def probe(self) -> Capabilities:
        """Runs all probes again; concurrent callers wait for each other."""
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
        """Calls back, from any thread, when the result changes; call the return value to unsubscribe."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def check_for_changes(self) -> bool:
        """Runs all probes if installed software changed since the last check; returns whether it did."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        self.probe()
        return True

    def start(self) -> None:
        self._thread.start()

    def request_probe(self) -> None:
        """Requests all probes soon, in the prober's own thread."""
        self._requested = True
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
                if self._requested:
                    self._requested = False
                    self.probe()
                elif not self._stopping:
                    self.check_for_changes()
            except Exception:
                log.exception("cannot check for changed packages")
