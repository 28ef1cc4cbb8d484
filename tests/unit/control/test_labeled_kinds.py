"""Each kind of object that has labels: they are set, found by their list's selector, and go with their object."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ostler.control.v1 import backup_pb2, label_pb2
from ostler_common.errors import OstlerError
from ostler_control import labels
from ostler_control.api.backups import BackupService
from ostler_control.api.labels import LabelService
from ostler_control.catalog import offerings
from ostler_control.labels.kinds import KINDS, OF_FIELD, OF_MODEL, Kind
from ostler_control.models import BackupSchedule, BackupStore, DiskOffering, Event, ServiceOffering

from tests import databases
from tests.unit.control import labeled
from tests.unit.control.calls import admin, context, user


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One database of each kind for all tests: each makes objects of its own."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('labels')}/ostler.sqlite"
    else:
        server = request.getfixturevalue("postgresql")
        databases.run_sql(server + "postgres", "CREATE DATABASE labeled_kinds")
        url = server + "labeled_kinds"
    with databases.bound(url):
        yield request.param


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def test_every_kind_of_the_api_is_in_the_list() -> None:
    fields = label_pb2.UpdateLabelsRequest.DESCRIPTOR.oneofs_by_name["object"].fields
    assert {field.name for field in fields} == OF_FIELD.keys() == labeled.MAKERS.keys() == labeled.LISTS.keys()
    assert len(OF_FIELD) == len(OF_MODEL) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.field)
def test_objects_of_each_kind_have_labels_that_go_with_them(database: str, kind: Kind) -> None:
    account, root = labeled.account(), context(admin())
    row, other = labeled.MAKERS[kind.field](account), labeled.MAKERS[kind.field](account)
    assert type(row) is kind.model
    request = label_pb2.UpdateLabelsRequest(**{kind.field: row.id}, set={"site": "berlin"})
    assert LabelService().UpdateLabels(request, root).labels == {"site": "berlin"}
    event = Event.get(Event.type == f"{kind.noun}.label", Event.resource_id == row.id)
    assert event.resource_type == kind.noun
    assert event.account_id == (account.id if kind.of_account else "")
    assert labeled.listed(kind.field, "site=berlin", root) == {row.id: {"site": "berlin"}}
    found = labeled.listed(kind.field, "!site", root)
    assert other.id in found
    assert row.id not in found
    row.delete_instance()
    assert kind.table.select().where(kind.table.object == row.id).count() == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.of_account], ids=lambda kind: kind.field)
def test_members_label_only_what_an_account_owns(database: str, kind: Kind) -> None:
    bob = context(user(labeled.name(), labeled.account()))
    request = label_pb2.UpdateLabelsRequest(**{kind.field: "anything"}, set={"a": "b"})
    assert reason(lambda: LabelService().UpdateLabels(request, bob)) == "ADMINS_ONLY_FIELD"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.of_account], ids=lambda kind: kind.field)
def test_members_label_what_their_own_account_owns(database: str, kind: Kind) -> None:
    acme, rival = labeled.account(), labeled.account()
    row = labeled.MAKERS[kind.field](acme)
    request = label_pb2.UpdateLabelsRequest(**{kind.field: row.id}, set={"a": "b"})
    eve, bob = context(user(labeled.name(), rival)), context(user(labeled.name(), acme))
    assert reason(lambda: LabelService().UpdateLabels(request, eve)) == f"{kind.field.upper()}_NOT_FOUND"
    assert LabelService().UpdateLabels(request, bob).labels == {"a": "b"}
    assert labeled.listed(kind.field, "a", bob) == {row.id: {"a": "b"}}
    assert labeled.listed(kind.field, "a", eve) == {}
    row.delete_instance()
    assert reason(lambda: labels.update(row, {"a": "c"}, [], "ada")) == f"{kind.field.upper()}_NOT_FOUND"


def test_a_schedules_event_has_the_name_of_what_it_is_for(database: str) -> None:
    row = labeled.MAKERS["backup_schedule"](labeled.account())
    assert isinstance(row, BackupSchedule)
    labels.update(row, {"a": "b"}, [], "ada")
    assert Event.get(Event.resource_id == row.id).resource_name == row.vm.name


def test_a_backup_store_has_the_labels_of_its_pool(database: str) -> None:
    store, other = (labeled.pool(labeled.account()) for _ in range(2))
    BackupStore.create(pool=store)
    root = context(admin())
    for pool in (store, other):
        LabelService().UpdateLabels(label_pb2.UpdateLabelsRequest(pool=pool.name, set={"site": "far"}), root)
    service = object.__new__(BackupService)
    for selector, names in (("site=far", [store.name]), ("!site", [])):
        request = backup_pb2.ListBackupStoresRequest(selector=selector)
        found = service.ListBackupStores(request, root).stores
        assert [(one.name, dict(one.labels)) for one in found] == [(name, {"site": "far"}) for name in names]


def test_the_object_must_be_named(database: str) -> None:
    request = label_pb2.UpdateLabelsRequest(set={"a": "b"})
    assert reason(lambda: LabelService().UpdateLabels(request, context(admin()))) == "REQUIRED"


@pytest.mark.parametrize("kind", ["service_offering", "disk_offering"])
def test_a_retired_offering_has_no_labels(database: str, kind: str) -> None:
    row = labeled.MAKERS[kind](labeled.account())
    assert isinstance(row, (ServiceOffering, DiskOffering))
    labels.update(row, {"tier": "gold"}, [], "ada")
    offerings.retire(row, "ada")
    assert labels.of_objects(type(row), [row.id]) == {}
