"""VMs that get another service offering, stopped and running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control import settings, vms
from ostler_control.catalog.offerings import create_service
from ostler_control.catalog.sizes import Size, maximum_of
from ostler_control.models import Host, ServiceOffering, Vm
from ostler_control.operations import Engine
from ostler_control.vms import wire

from tests import databases
from tests.fakes.working_agent import Fault
from tests.sites import GIB, MIB, Site, outcome, site_at_work

OK = ("succeeded", "")


class Place:
    """A site with a VM of 1 CPU and 1 GiB that may grow to 4 CPUs and 4 GiB; each offering is named by its size."""

    def __init__(self, site: Site, engine: Engine, stopped: bool) -> None:
        self.site, self.engine = site, engine
        self.offering(1, GIB)
        made = site.record(lambda: site.new_vm("web", offering=self.named("1-1024"), stopped=stopped))
        assert outcome(engine, made) == OK

    def offering(self, cpus: int, memory_bytes: int, **more: Any) -> ServiceOffering:
        maximum = more.pop("maximum", Size(max(cpus, 4), max(memory_bytes, 4 * GIB)))
        name = more.pop("name", f"{cpus}-{memory_bytes >> 20}")
        return create_service(name, cpus, memory_bytes, False, "root", maximum=maximum, **more)

    @staticmethod
    def named(name: str) -> ServiceOffering:
        return ServiceOffering.get(ServiceOffering.name == name)

    @property
    def vm(self) -> Vm:
        return Vm.get(Vm.name == "web")

    @property
    def host(self) -> Host:
        return Host.get_by_id(self.vm.host_id)

    def size(self) -> tuple[int, int, str]:
        vm = self.vm
        return vm.cpus, vm.memory_bytes, vm.service_offering.name

    def resize(self, offering: ServiceOffering) -> tuple[str, str]:
        return outcome(self.engine, self.site.record(lambda: vms.resize(self.vm, offering, "alice")))

    def on_host(self) -> tuple[int, int]:
        spec = self.site.hosts[self.host.name].vms[self.vm.id].spec
        return spec.cpus, spec.memory_bytes

    def claimed(self) -> tuple[int, int]:
        host = self.host
        return host.allocated_cpus, host.allocated_memory_bytes


def place_of(tmp_path: Path, stopped: bool) -> Iterator[Place]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        place = Place(site, engine, stopped)
        yield place
        site.check_whole()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Place]:
    yield from place_of(tmp_path, stopped=False)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Place]:
    yield from place_of(tmp_path, stopped=True)


def refusal(call: Callable[[], object]) -> OstlerError:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value


def test_a_running_vm_grows_within_its_maximum(running: Place) -> None:
    assert running.resize(running.offering(4, 3 * GIB)) == OK
    assert running.size() == (4, 3 * GIB, "4-3072")
    assert running.on_host() == running.claimed() == (4, 3 * GIB)
    # The maximum is that of the start: another offering's does not move it.
    error = refusal(lambda: running.resize(running.offering(8, 8 * GIB)))
    assert (error.reason, "at most 4 CPUs and 4 GiB" in error.message) == ("RESIZE_NEEDS_STOP", True)
    assert "ostler vm stop web" in error.message
    assert running.size() == (4, 3 * GIB, "4-3072")


def test_what_a_running_vm_cannot_get_is_refused_and_changes_nothing(running: Place) -> None:
    assert running.resize(running.offering(2, 2 * GIB)) == OK
    before = running.size(), running.claimed()
    for offering in (
        running.named("1-1024"),
        running.offering(2, GIB),
        running.offering(2, 2 * GIB + 64 * MIB),
        running.offering(2, 5 * GIB),
        running.offering(5, 2 * GIB),
        running.offering(3, 2 * GIB, name="detailed", details={"driver.kernel": "/k"}),
    ):
        assert refusal(lambda offering=offering: running.resize(offering)).reason == "RESIZE_NEEDS_STOP"  # type: ignore[misc]
    assert refusal(lambda: running.resize(running.site.encrypted)).reason == "OFFERING_ENCRYPTION"
    Host.update(functions="hot-plug").execute()
    assert refusal(lambda: running.resize(running.offering(3, 3 * GIB))).reason == "FUNCTION_NOT_SUPPORTED"
    assert (running.size(), running.claimed()) == before
    assert running.vm.operation_id == ""


def test_what_the_host_has_no_room_for_is_refused(running: Place) -> None:
    Host.update(memory_bytes=GIB + GIB // 2).execute()  # overcommitted 4 times, less what the host keeps
    larger = running.offering(4, 4 * GIB)
    with settings_of("host.reserved.memory", str(GIB)):
        error = refusal(lambda: running.resize(larger))
    assert error.reason == "NO_FEASIBLE_HOST"
    assert "no room for 3 CPUs and 3 GiB of memory more" in error.message
    assert running.size() == (1, GIB, "1-1024")
    assert running.resize(larger) == OK


def test_what_the_cluster_keeps_for_failed_hosts_is_not_for_growing(running: Place) -> None:
    with settings_of("ha.reserve.hosts", "3"):
        error = refusal(lambda: running.resize(running.offering(2, 2 * GIB)))
    assert (error.reason, error.metadata["RESERVED"]) == ("NO_FEASIBLE_HOST", "1")


def test_a_quota_counts_only_what_is_more(running: Place) -> None:
    with settings_of("quota.cpus", "3"):
        assert refusal(lambda: running.resize(running.offering(4, GIB))).reason == "QUOTA_EXCEEDED"
        assert running.resize(running.offering(3, GIB)) == OK


def test_a_stopped_vm_gets_any_size_and_starts_with_it_and_its_maximum(stopped: Place) -> None:
    assert stopped.resize(stopped.offering(8, 8 * GIB, maximum=Size(16, 8 * GIB))) == OK
    assert stopped.resize(stopped.offering(6, 512 * MIB, maximum=Size(12, 8 * GIB))) == OK
    assert stopped.size() == (6, 512 * MIB, "6-512")
    assert outcome(stopped.engine, stopped.site.record(lambda: vms.start(stopped.vm, "alice"))) == OK
    assert stopped.on_host() == stopped.claimed() == (6, 512 * MIB)
    assert maximum_of(stopped.vm) == Size(12, 8 * GIB)
    spec = wire.spec(stopped.vm, None)
    assert (spec.max_cpus, spec.max_memory_bytes) == (12, 8 * GIB)


def test_a_failed_resize_gives_back_what_it_claimed(running: Place) -> None:
    running.site.hosts[running.host.name].fail("ResizeVm", Fault(FailedPreconditionError("no", "NO_WAY")))
    assert running.resize(running.offering(4, 4 * GIB)) == ("failed", "NO_WAY")
    assert running.size() == (1, GIB, "1-1024")
    assert running.claimed() == running.on_host() == (1, GIB)
    assert running.vm.attention == ""


def test_what_a_vm_got_by_half_is_recorded_and_stays_claimed(running: Place) -> None:
    fake = running.site.hosts[running.host.name]
    fake.fail("ResizeVm", Fault(FailedPreconditionError("no", "NO_WAY")))
    fake.vms[running.vm.id].spec.memory_bytes = 4 * GIB
    assert running.resize(running.offering(4, 4 * GIB)) == ("failed", "NO_WAY")
    assert running.size() == (1, 4 * GIB, "1-1024")
    assert running.claimed() == (1, 4 * GIB)
    assert "its size is 1 CPU and 4 GiB of memory, not that of its offering" in running.vm.attention
    assert running.resize(running.named("4-4096")) == OK
    assert running.claimed() == running.on_host() == (4, 4 * GIB)
    assert running.vm.attention == ""


def test_a_maximum_is_at_least_the_size(running: Place) -> None:
    for maximum, field in ((Size(1, 0), "max_cpus"), (Size(0, MIB), "max_memory_bytes"), (Size(513, 0), "max_cpus")):
        error = refusal(lambda maximum=maximum: running.offering(2, GIB, maximum=maximum))  # type: ignore[misc]
        assert (error.reason, field in error.message) == ("INVALID_SIZE", True)
    assert maximum_of(running.vm) == Size(4, 4 * GIB)


@contextmanager
def settings_of(name: str, value: str) -> Iterator[None]:
    """A setting with another value for a while."""
    settings.change(name, value, "root")
    yield
    settings.reset(name, "root")
