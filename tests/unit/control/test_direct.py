"""What is found by its key, and what is inserted, is as peewee would have it."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from ostler_control import statement_forms
from ostler_control.models import ALL, Account, Host, OperationStep, Passphrase, Vm, VmState, Zone, db, new_id
from ostler_control.models.direct import NewRow, changed_row, new_row, row_by_key
from ostler_control.statement_forms import Texts, comparable, written
from peewee import SQL, IntegrityError, Model, fn

from tests.fleets import Fleet, make_fleet
from tests.unit.control.test_rows import value, whole

pytestmark = pytest.mark.usefixtures("fresh_database")


@pytest.fixture
def fleet(fresh_database: str) -> Fleet:
    return make_fleet(2)


def filled(model: type[Model], which: int = 0) -> Any:
    """A new row with a value for every column; which 1: nothing where that is allowed."""
    fields = model._meta.sorted_fields
    return model(**{field.name: None if field.null and which else value(field, which) for field in fields})


def direct(condition: object) -> bool:
    return row_by_key(Vm, (condition,)) is not None


def test_every_model_has_the_statements_that_peewee_writes() -> None:
    texts = Texts()
    for model in set(ALL) - {OperationStep}:
        for which in (0, 1):
            row = filled(model, which)
            statement: Any = new_row(row)
            expected: Any = written(model.insert(row.__data__), db.get_sql_context)
            text, values = texts.write(statement, db.get_sql_context)
            assert (text, comparable(values)) == (expected[0], comparable(statement.values))
            assert list(map(type, comparable(statement.values))) == list(map(type, comparable(expected[1])))
            assert comparable(statement.values) == comparable(expected[1])
            unless_taken: Any = new_row(row, may_conflict=True)
            expected = written(model.insert(row.__data__).on_conflict_ignore(), db.get_sql_context)
            assert texts.write(unless_taken, db.get_sql_context)[0] == expected[0]
            assert comparable(unless_taken.values) == comparable(expected[1])
            changed: Any = changed_row(model, "k", row.__data__)
            by_query = model.update(row.__data__).where(model._meta.primary_key == "k")
            expected = written(by_query, db.get_sql_context)
            assert texts.write(changed, db.get_sql_context)[0] == expected[0]
            assert comparable(changed.values) == comparable(expected[1])
        by_key: Any = row_by_key(model, (model._meta.primary_key == "k",))
        expected = written(model.select().where(model._meta.primary_key == "k"), db.get_sql_context)
        assert texts.write(by_key, db.get_sql_context) == expected


def test_a_row_is_found_by_its_key(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = fleet.vm("a")
    by_query = Vm.select().where(Vm.id == vm.id).first()
    Account.get_by_id(fleet.account.id)
    monkeypatch.setattr(statement_forms, "_Form", lambda _: pytest.fail("a query was walked through"))
    found: Any = Vm.get_by_id(vm.id)
    assert whole(found) == whole(by_query) == whole(Vm.get(Vm.id == vm.id)) == whole(Vm.get_or_none(Vm.id == vm.id))
    assert found.account.name == fleet.account.name
    assert "account" in found.__rel__
    assert Vm.get_or_none(Vm.id == "none") is None


def test_an_error_says_which_row_is_not_there(fleet: Fleet) -> None:
    for find in (
        lambda: Vm.get_by_id("none"),
        lambda: Vm.get(Vm.id == "none"),
        lambda: Vm.select().where(Vm.id == "none").get(),
    ):
        with pytest.raises(Vm.DoesNotExist, match="none") as caught:  # type: ignore[attr-defined]  # peewee adds it
            find()  # type: ignore[no-untyped-call]
        assert 'FROM "vm"' in str(caught.value)
    dangling = Vm(account="none")
    with pytest.raises(Account.DoesNotExist):  # type: ignore[attr-defined]
        _ = dangling.account


def test_other_conditions_are_peewees(fleet: Fleet) -> None:
    vm = fleet.vm("a")
    assert direct(Vm.id == "x")
    for condition in (
        Vm.id != "x",
        Vm.name == "x",
        Vm.id.is_null(),
        Vm.id == vm,
        Vm.id == VmState.RUNNING,
        Vm.id == fn.LOWER("X"),
    ):
        assert not direct(condition)
    assert not direct((Vm.id == "x") & (Vm.name == "y"))
    assert row_by_key(Vm, (Vm.id == "x", Vm.name == "y")) is None
    assert row_by_key(Vm, ()) is None
    assert Vm.get(Vm.id == vm).name == Vm.get(Vm.id == vm.id, Vm.name == "a").name == Vm.get(name="a").name == "a"
    assert Vm.get(Vm.id == fn.LOWER(vm.id.upper())).id == vm.id
    assert Vm.get_or_none(Vm.id == vm.id, Vm.name == "b") is None
    other = Vm.alias()
    assert not direct(other.id == "x")


def test_a_created_row_is_as_if_peewee_had_inserted_it(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    Zone.create(name="y")
    monkeypatch.setattr(statement_forms, "_Form", lambda _: pytest.fail("a query was walked through"))
    zone = Zone.create(name="z", create_time=datetime.datetime(2026, 1, 2))
    assert not zone.is_dirty()
    assert (Zone.get_by_id(zone.id).name, Zone.get_by_id(zone.id).create_time) == ("z", datetime.datetime(2026, 1, 2))
    vm = fleet.vm("a")
    assert vm.account is fleet.account
    assert Vm.get_by_id(vm.id).account_id == fleet.account.id
    with pytest.raises(IntegrityError), db.atomic():
        Zone.create(name="z")
    with pytest.raises(ValueError, match="runing"):
        Vm(state="runing")


def test_a_row_that_is_converted(fleet: Fleet) -> None:
    host: Any = fleet.hosts[0]
    host.id, host.name, host.cpus, host.enabled, host.removed = new_id(), 7, "12", 1, ""
    assert host.save(force_insert=True) == 1
    found = Host.get_by_id(host.id)
    assert (found.name, found.cpus, found.enabled, found.removed) == ("7", 12, True, False)


def test_rows_that_peewee_inserts(fleet: Fleet) -> None:
    zone = Zone(name="z")
    del zone.__data__["create_time"]
    assert new_row(zone) is None
    assert zone.save(force_insert=True) == 1
    assert Zone.get_by_id(zone.id).create_time is not None
    computed = Zone(name=SQL("lower('X')"))
    assert new_row(computed) is None
    assert computed.save(force_insert=True) == 1
    assert Zone.get_by_id(computed.id).name == "x"
    nameless = Zone(name="n", id=None)
    assert new_row(nameless) is None
    assert new_row(filled(OperationStep)) is None
    account = Account(name="late", id=None)
    vm = Vm(name="b", account=account, service_offering=fleet.offering, cpus=1, memory_bytes=1)
    assert new_row(vm) is None
    account.id = fleet.account.id
    vm.save(force_insert=True)
    assert Vm.get_by_id(vm.id).account_id == fleet.account.id


def test_a_saved_row_is_updated(fleet: Fleet) -> None:
    vm = fleet.vm("a")
    vm.cpus = 9
    assert vm.save() == 1
    assert vm.save(only=[Vm.cpus]) == 1
    assert Vm.get_by_id(vm.id).cpus == 9


def test_an_insert_has_the_defaults_of_what_is_not_given(fleet: Fleet) -> None:
    Zone.insert(name="a").on_conflict_ignore().execute()
    Zone.insert({Zone.name: "b"}).execute()
    a, b = (Zone.get(Zone.name == name) for name in "ab")
    assert len({a.id, b.id}) == 2
    assert Zone.insert(name="a").on_conflict_ignore().as_rowcount().execute() == 0
    assert Zone.insert(name="c").on_conflict_ignore().as_rowcount().execute() == 1


def test_a_statement_with_defaults_is_written_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    Zone.insert(name="a").on_conflict_ignore().execute()
    Passphrase.get_or_none(Passphrase.id == "x")
    monkeypatch.setattr(statement_forms, "written", lambda *_: pytest.fail("it was written again"))
    Zone.insert(name="b").on_conflict_ignore().execute()
    assert isinstance(new_row(Zone(name="c")), NewRow)


def test_a_row_is_inserted_unless_another_has_its_name(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Zone(name="y").insert_unless_taken()
    monkeypatch.setattr(statement_forms, "_Form", lambda _: pytest.fail("a query was walked through"))
    zone, other = Zone(name="z"), Zone(name="z")
    with db.atomic():
        assert zone.insert_unless_taken()
        assert not other.insert_unless_taken()
        assert Zone.get_or_none(Zone.id == other.id) is None
        assert Zone.get_by_id(zone.id).name == "z"


def test_a_computed_row_is_inserted_unless_another_has_its_name(fleet: Fleet) -> None:
    assert Zone(name=SQL("lower('X')")).insert_unless_taken()
    assert not Zone(name=SQL("lower('X')")).insert_unless_taken()
    assert Zone.select().where(Zone.name == "x").count() == 1


def test_columns_of_a_row_are_changed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    vm, other, host = fleet.vm("a"), Vm.get_by_id(fleet.vm("b").id), fleet.hosts[0]
    Vm.change("none", cpus=1)
    monkeypatch.setattr(statement_forms, "_Form", lambda _: pytest.fail("a query was walked through"))
    moment = datetime.datetime(2026, 1, 2)
    assert Vm.change(vm.id, state=VmState.STOPPED, state_time=moment, last_host=host.id, attention="b") == 1
    assert Vm.change(vm.id, attention="c", last_host=host) == 1
    found = Vm.get_by_id(vm.id)
    assert (found.state, found.state_time, found.last_host_id, found.attention) == (
        VmState.STOPPED,
        moment,
        host.id,
        "c",
    )
    assert Vm.change(vm.id, last_host=None) == 1
    assert Vm.get_by_id(vm.id).last_host_id is None
    assert whole(Vm.get_by_id(other.id)) == whole(other)
    assert Vm.change("none", cpus=1) == 0
    with pytest.raises(ValueError, match="runing"):
        Vm.change(vm.id, state="runing")


def test_a_computed_change(fleet: Fleet) -> None:
    vm = fleet.vm("a")
    assert Vm.change(vm.id, cpus=Vm.cpus + 2) == 1
    assert Vm.get_by_id(vm.id).cpus == vm.cpus + 2
