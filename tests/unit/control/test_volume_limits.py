"""I/O limits of volumes: by their disk offering, or their own; stopped and running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ostler.types.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.io_limits import NO_LIMITS, IoLimits, from_message, to_message
from ostler_control import vms, volumes
from ostler_control.catalog import disk_io
from ostler_control.catalog.offerings import create_disk
from ostler_control.models import Host, Vm, Volume
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.working_agent import Fault
from tests.sites import MIB, Site, outcome, site_at_work

OK = ("succeeded", "")
BRONZE = IoLimits(iops=500, bytes_per_s=50 * MIB, burst_iops=2000, burst_s=30)
SLOW = IoLimits(iops=10)


class Place:
    """A site with a VM, and a volume "data" of the offering "bronze" that is attached to it."""

    def __init__(self, site: Site, engine: Engine, stopped: bool) -> None:
        self.site, self.engine = site, engine
        self.bronze = create_disk("bronze", 0, False, "thin", "qcow2", "root", BRONZE, ignore_discard=True)
        assert self.do(lambda: site.new_vm("web", offering=site.plain, stopped=stopped)) == OK
        wanted = volumes.NewVolume("data", site.account, self.bronze, 10 * MIB, site.pools["shared"])
        assert self.do(lambda: volumes.create(wanted, "alice", site.keys)) == OK
        assert self.do(lambda: volumes.attach(self.volume("data"), self.vm, "alice")) == OK

    def do(self, make: Callable[[], object]) -> tuple[str, str]:
        return outcome(self.engine, self.site.record(make))  # type: ignore[arg-type]

    @property
    def vm(self) -> Vm:
        return Vm.get(Vm.name == "web")

    @staticmethod
    def volume(name: str) -> Volume:
        return Volume.get(Volume.name == name)

    def limit(self, limits: IoLimits | None, name: str = "data") -> tuple[str, str]:
        return self.do(lambda: volumes.limit(self.volume(name), limits, "root"))

    def limits(self, name: str = "data") -> IoLimits:
        """As the rows say."""
        return disk_io.of_volume(self.volume(name)).limits

    def on_host(self) -> list[tuple[IoLimits, bool]]:
        """Of each disk: its limits, and whether discard is ignored."""
        host = Host.get_by_id(self.vm.host_id)
        disks = self.site.hosts[host.name].vms[self.vm.id].spec.disks
        return [(from_message(disk.limits), disk.ignore_discard) for disk in disks]


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


def test_a_volume_has_the_limits_of_its_offering_wherever_it_is_attached(running: Place) -> None:
    assert running.on_host() == [(NO_LIMITS, False), (BRONZE, True)]
    assert running.do(lambda: vms.stop(running.vm, "alice", 0, True)) == OK
    assert running.do(lambda: vms.start(running.vm, "alice")) == OK
    assert running.on_host() == [(NO_LIMITS, False), (BRONZE, True)]


def test_a_running_vms_disks_get_limits_of_their_own_and_those_of_the_offering_again(running: Place) -> None:
    assert running.limit(SLOW) == running.limit(SLOW, "web-root") == OK
    assert running.on_host() == [(SLOW, False), (SLOW, True)]
    assert running.limit(NO_LIMITS) == OK  # whatever the offering says
    assert (running.limits(), running.on_host()[1]) == (NO_LIMITS, (NO_LIMITS, True))
    assert running.limit(None) == running.limit(None, "web-root") == OK
    assert running.on_host() == [(NO_LIMITS, False), (BRONZE, True)]
    assert not disk_io.of_volume(running.volume("data")).limits_are_own


def test_a_stopped_vms_disk_has_its_new_limits_at_the_next_start(stopped: Place) -> None:
    assert stopped.limit(SLOW) == OK
    assert stopped.do(lambda: vms.start(stopped.vm, "alice")) == OK
    assert stopped.on_host()[1] == (SLOW, True)


def test_limits_that_fail_to_change_are_as_before(running: Place) -> None:
    host = running.site.hosts[Host.get_by_id(running.vm.host_id).name]
    host.fail("LimitDisk", Fault(FailedPreconditionError("no", "NO_WAY"), before=False))
    assert running.limit(SLOW) == ("failed", "NO_WAY")
    assert (running.limits(), running.on_host()[1][0]) == (BRONZE, BRONZE)
    host.fail("LimitDisk", Fault(FailedPreconditionError("no", "NO_WAY"), before=False, times=2))
    assert running.limit(SLOW) == ("failed", "NO_WAY")
    assert "may have other limits than shown" in running.volume("data").state_reason
    assert running.limit(SLOW) == OK
    assert running.volume("data").state_reason == ""


def test_limits_need_a_driver_that_has_them(running: Place) -> None:
    Host.update(functions="hot-plug").execute()
    with pytest.raises(OstlerError) as caught:
        running.limit(SLOW)
    assert caught.value.reason == "FUNCTION_NOT_SUPPORTED"
    wanted = volumes.NewVolume("more", running.site.account, running.bronze, 10 * MIB, running.site.pools["shared"])
    assert running.do(lambda: volumes.create(wanted, "alice", running.site.keys)) == OK
    with pytest.raises(OstlerError) as caught:
        volumes.attach(running.volume("more"), running.vm, "alice")
    assert caught.value.reason == "FUNCTION_NOT_SUPPORTED"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("iops", {"iops": -1}),
        ("iops", {"iops": 10_000_001}),
        ("bytes_per_s", {"bytes_per_s": (1 << 40) + 1}),
        ("burst_iops", {"burst_iops": 5}),
        ("burst_iops", {"iops": 5, "burst_iops": 5}),
        ("burst_bytes_per_s", {"iops": 5, "burst_bytes_per_s": 5}),
        ("burst_s", {"iops": 5, "burst_s": 5}),
        ("burst_s", {"iops": 5, "burst_iops": 9, "burst_s": 601}),
        ("burst_s", {"iops": 5, "burst_iops": 9, "burst_s": -1}),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_field(field: str, values: dict[str, int]) -> None:
    with pytest.raises(OstlerError) as caught:
        from_message(volume_pb2.IoLimits(**values))
    assert (caught.value.reason, f"limits.{field}" in caught.value.message) == ("INVALID_IO_LIMIT", True)


def test_limits_survive_the_wire() -> None:
    assert from_message(to_message(BRONZE)) == BRONZE
    assert from_message(volume_pb2.IoLimits(iops=1, burst_iops=2)).burst_s == 1
    assert not from_message(volume_pb2.IoLimits())
