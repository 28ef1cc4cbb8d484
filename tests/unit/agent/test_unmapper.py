"""Volumes that no VM uses any more are unmapped; those of a VM that is about to start are not."""

from __future__ import annotations

import queue
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ostler_agent.hypervisors.base import VmEventKind
from ostler_agent.pools.unmapper import Unmapper
from ostler_agent.spec import PowerState, VmInfo

FOREVER_S = 3600.0


@dataclass
class Event:
    vm: VmInfo
    kind: VmEventKind = VmEventKind.STOPPED
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Volumes:
    """Tells what it is asked to unmap."""

    asked: queue.Queue[tuple[set[str], float, set[str] | None]] = field(default_factory=queue.Queue)

    def unmap_unused(self, used: Collection[str], requested_before: float, only: Collection[str] | None = None) -> None:
        self.asked.put((set(used), requested_before, None if only is None else set(only)))

    def next(self) -> tuple[set[str], float, set[str] | None]:
        return self.asked.get(timeout=10)


@dataclass
class Guests:
    known: list[VmInfo]
    looks: queue.Queue[None] = field(default_factory=queue.Queue)

    def vms(self) -> list[VmInfo]:
        self.looks.put(None)
        return list(self.known)


def vm(vm_id: str, state: PowerState, *volumes: str) -> VmInfo:
    return VmInfo(vm_id, vm_id, state, 1, 1, volumes, managed=True)


@contextmanager
def running(volumes: Volumes, guests: Guests, **periods: float) -> Iterator[Unmapper]:
    unmapper = Unmapper(volumes, guests, **{"interval_s": FOREVER_S, "grace_s": FOREVER_S, **periods})
    unmapper.start()
    try:
        yield unmapper
    finally:
        unmapper.stop()


def test_a_vm_that_has_gone_loses_the_volumes_that_nobody_else_has() -> None:
    """Also when its end is heard late: paths requested after it was last seen to run are for its next run."""
    guests = Guests([vm("a", PowerState.RUNNING, "v1", "v2"), vm("b", PowerState.PAUSED, "v3")])
    volumes = Volumes()
    with running(volumes, guests) as unmapper:
        before_scan = time.monotonic()
        unmapper.vm_event(Event(guests.known[0], VmEventKind.STARTED))
        guests.looks.get(timeout=10)
        after_scan = time.monotonic()
        guests.known = [vm("a", PowerState.STOPPED, "v1", "v2"), vm("b", PowerState.PAUSED, "v2", "v3")]
        unmapper.vm_event(Event(guests.known[0]))
        used, requested_before, only = volumes.next()
    assert (used, only) == ({"v2", "v3"}, {"v1"})
    assert before_scan <= requested_before <= after_scan
    assert volumes.asked.empty()


def test_a_vm_that_moved_away_loses_them_too() -> None:
    guests = Guests([vm("a", PowerState.RUNNING, "v1")])
    volumes = Volumes()
    with running(volumes, guests) as unmapper:
        unmapper.vm_event(Event(guests.known[0], VmEventKind.STARTED))
        guests.looks.get(timeout=10)
        guests.known = []
        unmapper.vm_event(Event(vm("a", PowerState.ABSENT), VmEventKind.MIGRATED))  # nothing more is known of it
        assert volumes.next()[2] == {"v1"}


def test_the_end_of_a_run_that_nobody_saw_is_dated_to_when_the_driver_heard_of_it() -> None:
    stopped = vm("a", PowerState.STOPPED, "v1")
    volumes = Volumes()
    with running(volumes, Guests([stopped])) as unmapper:
        now = time.monotonic()
        unmapper.vm_event(Event(stopped, time=datetime.now(UTC) - timedelta(seconds=30)))
        _, requested_before, only = volumes.next()
    assert only == {"v1"}
    assert now - 31 < requested_before < now - 29, "it waited for 30 seconds: the VM may be about to start again"
    with running(volumes, Guests([stopped])) as unmapper:
        unmapper.vm_event(Event(stopped, time=datetime.now(UTC) + timedelta(hours=1)))
        assert volumes.next()[1] <= time.monotonic(), "whatever the clock of the day does"


def test_a_stopped_vm_is_known_by_its_definition_too() -> None:
    stopped = vm("a", PowerState.STOPPED, "v1")
    volumes = Volumes()
    with running(volumes, Guests([stopped])) as unmapper:
        unmapper.vm_event(Event(stopped))
        assert volumes.next()[2] == {"v1"}


def test_a_vm_that_is_about_to_start_keeps_its_volumes() -> None:
    """It is defined once the paths of its volumes are known, and runs some moments later."""
    defined = vm("a", PowerState.STOPPED, "v1")
    volumes = Volumes()
    with running(volumes, Guests([defined])) as unmapper:
        unmapper.vm_event(Event(defined, VmEventKind.DEFINED))
        unmapper.vm_event(Event(vm("b", PowerState.ABSENT, "v2"), VmEventKind.UNDEFINED))
        assert volumes.next()[2] == {"v2"}
    assert volumes.asked.empty()


def test_a_detached_volume_is_found_by_looking() -> None:
    guests = Guests([vm("a", PowerState.RUNNING, "v1", "v2")])
    volumes = Volumes()
    began = time.monotonic()
    with running(volumes, guests, interval_s=0.02):
        guests.looks.get(timeout=10)
        guests.looks.get(timeout=10)
        guests.known = [vm("a", PowerState.RUNNING, "v1")]
        used, requested_before, only = volumes.next()
    assert (used, only) == ({"v1"}, {"v2"})
    assert began <= requested_before < time.monotonic()


def test_everything_is_looked_through_after_the_grace_that_a_start_has() -> None:
    volumes = Volumes()
    with running(volumes, Guests([vm("a", PowerState.RUNNING, "v1")]), interval_s=0.02, grace_s=0.1):
        used, requested_before, only = volumes.next()
    assert (used, only) == ({"v1"}, None)
    assert requested_before <= time.monotonic() - 0.1


def test_a_hypervisor_that_is_away_does_not_end_it() -> None:
    class Away(Guests):
        def vms(self) -> list[VmInfo]:
            if not self.looks.qsize():
                super().vms()
                raise ConnectionError
            return super().vms()

    volumes = Volumes()
    with running(volumes, Away([vm("a", PowerState.STOPPED, "v1")]), interval_s=0.02) as unmapper:
        unmapper.vm_event(Event(vm("b", PowerState.ABSENT, "v1")))
        unmapper.vm_event(Event(vm("c", PowerState.ABSENT, "v2")))
        assert volumes.next()[2] == {"v2"}
