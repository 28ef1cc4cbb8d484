from __future__ import annotations

import threading
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st
from ostler.control.v1 import event_pb2, zone_pb2
from ostler_common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OstlerError,
)
from ostler_control import database, events, settings, statement_forms
from ostler_control.api import masks, paging, requests
from ostler_control.api.events import EventService
from ostler_control.api.resolve import resolve
from ostler_control.api.zones import ClusterService, ZoneService
from ostler_control.catalog.names import check_name, check_user_name, is_id
from ostler_control.models import Account, Cluster, Event, Host, Request, ServiceOffering, Vm, Zone, new_id, now

from tests.unit.control import calls


def _zones(**fields: Any) -> zone_pb2.ListZonesResponse:
    return ZoneService().ListZones(zone_pb2.ListZonesRequest(**fields), calls.context(calls.admin()))


def test_pages_hold_every_row_once_though_rows_come_and_go_between(fresh_database: str) -> None:
    same = now()
    names = [f"z{i}" for i in range(7)]
    for name in names:
        Zone.create(name=name, create_time=same)  # the same moment: the id has to decide
    first = _zones(page_size=3)
    Zone.delete().where(Zone.id == first.zones[0].id).execute()
    second = _zones(page_size=3, page_token=first.next_page_token)
    Zone.create(name="later")
    third = _zones(page_size=3, page_token=second.next_page_token)
    seen = [zone.name for page in (first, second, third) for zone in page.zones]
    assert sorted(seen) == sorted([*names, "later"])
    assert third.next_page_token == ""
    assert [len(page.zones) for page in (first, second, third)] == [3, 3, 2]


def test_page_sizes(fresh_database: str) -> None:
    Zone.insert_many([{"name": f"z{i}"} for i in range(510)]).execute()
    assert len(_zones().zones) == 100
    assert len(_zones(page_size=1000).zones) == 500
    with pytest.raises(InvalidArgumentError) as caught:
        _zones(page_size=-1)
    assert caught.value.reason == "INVALID_PAGE_SIZE"


@pytest.mark.parametrize("token", ["x", "!!!", "AAAA", "W10", "WzEsMiwzXQ"])
def test_a_token_of_another_making_is_refused(sqlite_database: str, token: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        _zones(page_token=token)
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


def test_a_token_is_good_only_for_its_own_query_and_caller(sqlite_database: str) -> None:
    account = Account.create(name="a")
    for i in range(3):
        events.record("vm.start", events.Outcome.SUCCEEDED, "u", "vm", new_id(), f"v{i}", account_id=account.id)
    member = calls.context(calls.user("u", account))
    service = EventService(threading.Event())
    token = service.ListEvents(event_pb2.ListEventsRequest(page_size=1, type="vm"), member).next_page_token
    request = event_pb2.ListEventsRequest(page_size=2, type="vm", page_token=token)
    assert len(service.ListEvents(request, member).events) == 2  # the size may change
    request.type = "vm.start"
    with pytest.raises(InvalidArgumentError, match="another request"):
        service.ListEvents(request, member)
    request.type = "vm"
    with pytest.raises(InvalidArgumentError, match="another request"):
        service.ListEvents(request, calls.context(calls.admin()))


def _vm(name: str, account: Account) -> Vm:
    offering = ServiceOffering.get_or_none() or ServiceOffering.create(name="small", cpus=1, memory_bytes=1 << 28)
    vm: Vm = Vm.create(name=name, account=account, service_offering=offering, cpus=1, memory_bytes=1 << 28)
    return vm


def test_an_object_is_found_by_id_in_either_case_and_by_name(fresh_database: str) -> None:
    zone = Zone.create(name="east")
    assert resolve(Zone, "east", "zone") == zone
    assert resolve(Zone, zone.id, "zone") == zone
    assert resolve(Zone, zone.id.upper(), "zone") == zone
    with pytest.raises(InvalidArgumentError) as caught:
        resolve(Zone, "", "zone")
    assert caught.value.violations[0].field == "zone"


def test_what_is_not_there_is_told_with_near_misses(fresh_database: str) -> None:
    for name in ("web1", "web2", "database"):
        Zone.create(name=name)
    with pytest.raises(NotFoundError, match=r'zone "web3" does not exist \(did you mean web\d or web\d\?\)') as caught:
        resolve(Zone, "web3", "zone")
    assert caught.value.reason == "ZONE_NOT_FOUND"
    with pytest.raises(NotFoundError) as other:
        resolve(Zone, "qqq", "zone")
    assert "did you mean" not in other.value.message


def test_another_accounts_vm_looks_exactly_like_none(fresh_database: str) -> None:
    mine, theirs = Account.create(name="mine"), Account.create(name="theirs")
    foreign = _vm("web1", theirs)
    member = calls.user("m", mine)

    def refusal(ref: str) -> str:
        with pytest.raises(NotFoundError) as caught:
            resolve(Vm, ref, "vm", caller=member)
        return caught.value.message.replace(ref, "X") + caught.value.reason

    assert refusal("web1") == refusal("none-of-the-kind") == refusal(foreign.id) == refusal(new_id())
    assert "did you mean" not in refusal("web2")
    assert resolve(Vm, "web1", "vm", caller=calls.admin()) == foreign


def test_what_a_call_names_is_found_without_a_query(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zone, offering = Zone.create(name="east"), ServiceOffering.create(name="small", cpus=1, memory_bytes=1)
    monkeypatch.setattr(statement_forms, "_Form", lambda _: pytest.fail("a query was walked through"))
    for ref in ("east", zone.id):
        assert resolve(Zone, ref, "zone") == resolve(Zone, ref, "zone", caller=calls.admin()) == zone
    assert resolve(ServiceOffering, "small", "service_offering") == offering
    with settings.read_once("none"):
        assert settings.hypervisors.CUSTOM_DISPLAY_NAME.get() == "Custom"
    assert settings.hypervisors.CUSTOM_DISPLAY_NAME.get() == "Custom"


def test_a_name_that_several_have_is_refused_with_their_ids(fresh_database: str) -> None:
    vms = [_vm("web1", Account.create(name=name)) for name in ("a", "b")]
    with pytest.raises(FailedPreconditionError) as caught:
        resolve(Vm, "web1", "vm", caller=calls.admin())
    assert caught.value.reason == "AMBIGUOUS_NAME"
    assert all(vm.id in caught.value.message for vm in vms)
    assert resolve(Vm, "web1", "vm", caller=calls.user("m", vms[0].account)) == vms[0]


def test_removed_hosts_and_retired_offerings_are_not_found_and_free_their_names(fresh_database: str) -> None:
    cluster = Cluster.create(name="c", zone=Zone.create(name="z"))
    Host.create(name="h", address="x", cluster=cluster, removed=True)
    live = Host.create(name="h", address="x", cluster=cluster)
    assert resolve(Host, "h", "host") == live
    ServiceOffering.create(name="small", cpus=1, memory_bytes=1, retire_time=now())
    with pytest.raises(NotFoundError) as caught:
        resolve(ServiceOffering, "small", "service_offering")
    assert caught.value.reason == "SERVICE_OFFERING_NOT_FOUND"


def test_a_repeated_request_answers_with_the_same_object(fresh_database: str) -> None:
    service, context = ZoneService(), calls.context(calls.admin())
    request = zone_pb2.CreateZoneRequest(request_id=new_id(), name="east")
    zone = service.CreateZone(request, context)
    assert service.CreateZone(request, context) == zone
    assert Zone.select().count() == 1
    assert Event.select().count() == 1
    with pytest.raises(AlreadyExistsError):  # the same without its id is a new wish
        service.CreateZone(zone_pb2.CreateZoneRequest(name="east"), context)
    with pytest.raises(InvalidArgumentError) as caught:
        service.CreateZone(zone_pb2.CreateZoneRequest(request_id=request.request_id, name="west"), context)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    service.DeleteZone(zone_pb2.DeleteZoneRequest(zone="east"), context)
    with pytest.raises(NotFoundError) as gone:
        service.CreateZone(request, context)
    assert gone.value.reason == "REQUEST_RESULT_GONE"


def test_a_request_that_failed_is_not_remembered(fresh_database: str) -> None:
    service, context = ClusterService(), calls.context(calls.admin())
    request = zone_pb2.CreateClusterRequest(request_id=new_id(), name="c", zone="east")
    with pytest.raises(NotFoundError):
        service.CreateCluster(request, context)
    assert Request.select().count() == 0
    Zone.create(name="east")
    assert service.CreateCluster(request, context).name == "c"


def test_twelve_equal_requests_at_once_make_one_object(fresh_database: str) -> None:
    caller = calls.admin()
    request = zone_pb2.CreateZoneRequest(request_id=new_id(), name="east")
    answers: list[zone_pb2.Zone | OstlerError] = []
    start = threading.Barrier(12)

    def call() -> None:
        start.wait()
        try:
            answers.append(ZoneService().CreateZone(request, calls.context(caller)))
        except OstlerError as error:
            answers.append(error)

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12
    assert all(answer == answers[0] for answer in answers)
    assert Zone.select().count() == 1


def test_requests_are_forgotten_after_a_while(sqlite_database: str) -> None:
    Request.create(user="u", request_id=new_id(), method="m", digest="d", create_time=now() - 2 * requests.KEPT_FOR)
    Request.create(user="u", request_id=new_id(), method="m", digest="d")
    assert requests.prune() == 1
    assert Request.select().count() == 1


def test_a_request_id_must_be_a_uuid(sqlite_database: str) -> None:
    with pytest.raises(InvalidArgumentError, match="UUID"):
        ZoneService().CreateZone(zone_pb2.CreateZoneRequest(request_id="1", name="z"), calls.context(calls.admin()))


def test_masks_name_something_and_only_what_can_change() -> None:
    assert masks.paths(FieldMask(paths=["name", "enabled"]), {"name", "enabled"}) == {"name", "enabled"}
    for mask in (FieldMask(), FieldMask(paths=["name", "id"])):
        with pytest.raises(InvalidArgumentError) as caught:
            masks.paths(mask, {"name"})
        assert caught.value.reason == "INVALID_UPDATE_MASK"


@pytest.mark.parametrize("name", ["a", "web-1.example_x", "0x", "A" * 63])
def test_good_names(name: str) -> None:
    assert check_name("name", name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-a", ".a", "a b", "a/b", "a\n", "ä", "A" * 64, "6f1c5a60-0d2b-4c7e-9d0a-1f6f8d4f7a11", "a\0"],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_name("name", name)


def test_user_names_are_stricter() -> None:
    assert check_user_name("name", "ann.lee-2") == "ann.lee-2"
    for name in ("Ann", "2ann", "ann_lee", "ann\n"):
        with pytest.raises(InvalidArgumentError):
            check_user_name("name", name)


@given(st.uuids())
def test_every_uuid_is_an_id_and_nothing_near_it(uuid: Any) -> None:
    assert is_id(str(uuid))
    assert not is_id(uuid.hex)
    assert not is_id(f"{{{uuid}}}")


def test_a_handler_brings_its_own_session(sqlite_database: str) -> None:
    names: list[str] = []

    def call() -> None:
        context = calls.context(calls.admin())
        names.append(ZoneService().CreateZone(zone_pb2.CreateZoneRequest(name="z"), context).name)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert names == ["z"]
    assert database.is_sqlite()


def test_lists_that_are_not_in_the_database_have_pages_too() -> None:
    request = zone_pb2.ListZonesRequest(page_size=2)
    first = paging.list_page([1, 2, 3], request)
    request.page_token = first.next_page_token
    assert (first.rows, paging.list_page([1, 2, 3], request).rows) == ([1, 2], [3])
