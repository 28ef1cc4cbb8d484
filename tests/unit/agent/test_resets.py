"""A VM is not reset in the first moments of its firmware."""

from __future__ import annotations

from dataclasses import dataclass, field

import libvirt
import pytest
from ostler_agent.hypervisors.libvirt.resets import Resets

VM = "5a8d3b4e-0000-4000-8000-000000000001"
NS_PER_S = 1_000_000_000


@dataclass
class Domain:
    """A domain whose virtual CPU works for a share of the time; resets: when it was reset."""

    share: float = 1.0
    run: int = 1
    paused: bool = False
    cpu_ns: int = 0
    clock_s: float = 0.0
    resets: list[float] = field(default_factory=list)

    def UUIDString(self) -> str:
        return VM

    def ID(self) -> int:
        return self.run

    def state(self) -> tuple[int, int]:
        return (libvirt.VIR_DOMAIN_PAUSED if self.paused else libvirt.VIR_DOMAIN_RUNNING), 0

    def vcpus(self) -> tuple[list[tuple[int, int, int, int]], list[tuple[bool, ...]]]:
        return [(0, 1, self.cpu_ns, 0)], [(True,)]

    def reset(self) -> None:
        self.resets.append(round(self.clock_s, 3))

    def work(self, seconds: float) -> None:
        self.clock_s += seconds
        self.cpu_ns += 0 if self.paused else int(seconds * self.share * NS_PER_S)

    def resetter(self) -> Resets:
        return Resets(lambda: self.clock_s, self.work)


@pytest.mark.parametrize(
    ("share", "paused", "waited_s"),
    [(1.0, False, 0.05), (0.05, False, 1.0), (0.0, False, 3.0), (1.0, True, 0.0)],
    ids=["at once", "on a busy host", "an idle guest", "a paused guest"],
)
def test_a_reset_waits_until_the_virtual_cpu_has_worked(share: float, paused: bool, waited_s: float) -> None:
    domain = Domain(share, paused=paused)
    domain.resetter().reset(domain)
    assert domain.resets == [pytest.approx(waited_s, abs=0.06)]


def test_a_guest_that_has_run_is_reset_at_once_and_after_that_its_firmware_is_waited_for() -> None:
    domain = Domain()
    domain.work(10.0)
    resets = domain.resetter()
    resets.reset(domain)
    resets.reset(domain)
    assert domain.resets == [10.0, pytest.approx(10.05, abs=0.01)]
    domain.work(1.0)
    resets.reset(domain)
    assert len(domain.resets) == 3
    assert domain.resets[2] == pytest.approx(domain.resets[1] + 1.0)


def test_a_new_run_begins_with_its_firmware_whatever_was_reset_before() -> None:
    domain = Domain()
    domain.work(10.0)
    resets = domain.resetter()
    resets.reset(domain)
    domain.run, domain.cpu_ns = 2, 0
    resets.reset(domain)
    assert domain.resets == [10.0, pytest.approx(10.05, abs=0.01)]
