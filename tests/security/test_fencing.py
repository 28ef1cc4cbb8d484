"""Whoever may cut the power of hosts: admins alone, who confirm it, and nobody reads a device's password again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from ostler.control.v1 import ha_pb2 as pb
from ostler_common.errors import OstlerError
from ostler_control.api.authorization import TABLE
from ostler_control.api.ha import HaService
from ostler_control.caller import Role
from ostler_control.ha import run_agent
from ostler_control.models import Event, FenceDevice, HostFence, Operation, Passphrase, new_id
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.fence import PASSWORD, FakeDevice
from tests.sites import Site, site_at_work
from tests.unit.control import calls


@pytest.fixture
def working(tmp_path: Path) -> Iterator[tuple[Site, Engine]]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as working:
        yield working


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Site:
    return working[0]


@pytest.fixture
def service(working: tuple[Site, Engine]) -> HaService:
    return HaService(working[1].keys)


@pytest.fixture
def bmc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    fake = FakeDevice(tmp_path / "fence")
    monkeypatch.setattr(run_agent, "_DIRECTORY", fake.directory)
    return fake


ROOT = calls.context(calls.admin())


def add(**changes: object) -> pb.AddFenceDeviceRequest:
    request = pb.AddFenceDeviceRequest(
        host="h1", agent="redfish", address="bmc", username="u", password=PASSWORD, options={"plug": "1"}
    )
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_only_admins_call_the_service() -> None:
    found = {path: roles for path, roles in TABLE.items() if path.startswith("/ostler.control.v1.HaService/")}
    assert len(found) == len(pb.DESCRIPTOR.services_by_name["HaService"].methods)
    assert set(found.values()) == {frozenset({Role.ADMIN})}


def test_a_device_that_does_not_answer_is_not_recorded(site: Site, service: HaService, bmc: FakeDevice) -> None:
    bmc.fault("dead")
    assert reason(lambda: service.AddFenceDevice(add(), ROOT)) == "FENCE_FAILED"
    bmc.fault("dead", present=False)
    assert reason(lambda: service.AddFenceDevice(add(password=b"wrong"), ROOT)) == "FENCE_FAILED"
    assert (FenceDevice.select().count(), Passphrase.select().count()) == (0, 0)


def test_an_agent_that_is_not_allowed_is_never_started(site: Site, service: HaService, bmc: FakeDevice) -> None:
    for agent in ("dummy", "vmware_soap", "../../bin/sh", ""):
        assert reason(partial(service.AddFenceDevice, add(agent=agent), ROOT)) == "UNKNOWN_FENCE_AGENT"
    assert bmc.calls() == []


def test_the_password_is_in_no_answer_and_no_event(site: Site, service: HaService, bmc: FakeDevice) -> None:
    added = service.AddFenceDevice(add(), ROOT)
    tested = service.TestFenceDevice(pb.TestFenceDeviceRequest(host="h1"), ROOT)
    listed = service.ListFenceDevices(pb.ListFenceDevicesRequest(), ROOT)
    assert tested.test_power == "on"
    assert not any(PASSWORD in answer.SerializeToString() for answer in (added, tested, listed))
    assert not any(PASSWORD.decode() in event.message for event in Event.select())
    assert reason(lambda: service.AddFenceDevice(add(), ROOT)) == "FENCE_EXISTS"
    service.RemoveFenceDevice(pb.RemoveFenceDeviceRequest(host="h1"), ROOT)
    told = Event.select().where(Event.resource_name == added.host_name).order_by(Event.create_time)
    assert [event.type for event in told if event.type.startswith("fence.")] == ["fence.add", "fence.remove"]
    assert Passphrase.select().count() == 0


@pytest.mark.parametrize("typed", ["", "h2", "H1", "h1 "])
def test_a_host_is_declared_dead_only_by_its_exact_name(site: Site, service: HaService, typed: str) -> None:
    site.silence("h1")
    request = pb.DeclareHostDeadRequest(request_id=new_id(), host="h1", confirm=typed)
    assert reason(lambda: service.DeclareHostDead(request, ROOT)) == "NOT_CONFIRMED"
    assert not Operation.select().exists()


def test_asking_whether_a_host_could_be_declared_dead_changes_nothing(site: Site, service: HaService) -> None:
    request = pb.DeclareHostDeadRequest(request_id=new_id(), host="h1", confirm="h1", validate_only=True)
    assert reason(lambda: service.DeclareHostDead(request, ROOT)) == "HOST_UP"
    site.silence("h1")
    assert service.DeclareHostDead(request, ROOT).done
    assert not Operation.select().exists()
    assert not HostFence.select().exists()
    assert site.host("h1").state == "disconnected"


def test_a_priority_is_of_one_vm_or_of_one_offering(site: Site, service: HaService) -> None:
    for request in (
        pb.SetPriorityRequest(priority=pb.PRIORITY_LOW),
        pb.SetPriorityRequest(vm="a", service_offering="b", priority=pb.PRIORITY_LOW),
    ):
        assert reason(partial(service.SetPriority, request, ROOT)) == "INVALID_FIELD"
    assert reason(lambda: service.SetPriority(pb.SetPriorityRequest(vm="a"), ROOT)) == "VM_NOT_FOUND"
    answer = service.SetPriority(pb.SetPriorityRequest(service_offering="plain", priority=pb.PRIORITY_HIGH), ROOT)
    assert answer.priority == pb.PRIORITY_HIGH
