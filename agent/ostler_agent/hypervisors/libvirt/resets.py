"""Resets VMs, but not in the first moments of their firmware.

SeaBIOS begins by copying itself into memory. Where QEMU emulates the CPU, a reset in the midst of that hangs the guest
for good: no further reset helps, only a power cycle does. QEMU 7.2 hung in nine of ten resets that came when the
virtual CPU had worked for 1 to 9 ms, and in none after 10 ms. So a reset waits until it has worked for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import libvirt

_FIRMWARE_NS = 50_000_000
# A guest that idles may need no more CPU than that in its whole life.
_MAX_WAIT_S, _POLL_S = 3.0, 0.05


class Domain(Protocol):
    """What is asked of libvirt's domain."""

    def UUIDString(self) -> str: ...
    def ID(self) -> int: ...
    def state(self) -> Sequence[int]: ...
    def vcpus(self) -> tuple[Sequence[Sequence[int]], object]: ...
    def reset(self) -> object: ...


@dataclass(frozen=True)
class _Reset:
    """A reset. run: which run of the VM; cpu_ns: what its first virtual CPU had worked then; time_s: when."""

    run: int
    cpu_ns: int
    time_s: float


class Resets:
    """Knows the VMs' last resets: from each of them on the firmware starts anew. From any thread."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._last: dict[str, _Reset] = {}

    def reset(self, domain: Domain) -> None:
        """Resets a running VM. Raises libvirt's errors."""
        vm_id = domain.UUIDString()
        self._wait_for_firmware(domain, self._last.get(vm_id))
        domain.reset()
        try:
            run, cpu_ns = domain.ID(), _cpu_ns(domain)
        except libvirt.libvirtError:
            return  # it has ended since; it was reset
        now_s = self._clock()
        recent = {key: one for key, one in self._last.copy().items() if one.time_s > now_s - _MAX_WAIT_S}
        self._last = {**recent, vm_id: _Reset(run, cpu_ns, now_s)}

    def _wait_for_firmware(self, domain: Domain, last: _Reset | None) -> None:
        begin_ns = last.cpu_ns if last is not None and last.run == domain.ID() else 0
        end_s = self._clock() + _MAX_WAIT_S
        while _cpu_ns(domain) - begin_ns < _FIRMWARE_NS and self._clock() < end_s:
            if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
                return  # it does not work on
            self._sleep(_POLL_S)


def _cpu_ns(domain: Domain) -> int:
    """How long the first virtual CPU of a running VM has worked since the VM's start."""
    cpus, _ = domain.vcpus()
    return int(cpus[0][2]) if cpus else 0
