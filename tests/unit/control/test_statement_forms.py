"""The texts of statements are kept, and each is what peewee would write; `conftest.py` compares those of all tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ostler_control import database, statement_forms
from ostler_control.database import locked, skip_locked
from ostler_control.models import ALL, Event, Host, Nic, Operation, Passphrase, Vm, VmState, Zone, db, now
from ostler_control.statement_forms import Texts, comparable, written
from ostler_control.statements import is_plain
from peewee import OP, Expression, Query, fn

from tests.unit.control.test_statements import QUERIES

# By name: a statement for a text. Those of one name have one form.
KEPT: dict[str, Callable[[str], Query]] = {
    "by id": lambda text: Vm.select().where(Vm.id == text).limit(1),
    "a few columns": lambda text: Operation.select(Operation.attempt).where(Operation.id == text),
    "of a list": lambda text: Vm.select().where(Vm.id.in_([text, "b"]), Vm.state.in_({VmState.RUNNING})),
    "ordered": lambda text: (
        Event.select().where(Event.type == text).order_by(Event.create_time.desc()).limit(len(text))
    ),
    "joined": lambda text: Nic.select(Nic.id).join(Vm).where(Vm.name == text),
    "of a subquery": lambda text: Nic.select().where(Nic.vm.in_(Vm.select(Vm.id).where(Vm.name == text))),
    "exists": lambda text: Vm.select(fn.EXISTS(Vm.select().where(Vm.name == text))),
    "distinct": lambda text: Vm.select(Vm.cpus).where(Vm.name == text).distinct(),
    "locked": lambda text: locked(Vm.select().where(Vm.id == text)),
    "not those locked": lambda text: skip_locked(Vm.select().where(Vm.id == text)),
    "update": lambda text: Host.update(name=text, allocated_cpus=Host.allocated_cpus + len(text)).where(~Host.removed),
    "update to nothing": lambda text: Vm.update(host=None, name=text).where(Vm.host.is_null(False)),
    "binary": lambda text: Passphrase.update(sealed=text.encode()).where(Passphrase.id == text),
    "delete": lambda text: Zone.delete().where((Zone.name == text) | (Zone.create_time < now())),
    "insert": lambda text: Zone.insert(id=text, name=text, create_time=now()),
    "insert with defaults": lambda text: Nic.insert(id=text, vm=text, position=1, mac=text, create_time=now()),
    "insert of objects": lambda text: Nic.insert(id=text, vm=Vm(id=text), position=1, mac=text, create_time=now()),
    "insert or not": lambda text: Zone.insert(id=text, name=text, create_time=now()).on_conflict_ignore(),
}


@pytest.fixture(params=["sqlite:////nowhere", "postgresql://nobody@localhost/nothing"])
def texts(request: pytest.FixtureRequest) -> Texts:
    """Of a database that only says how statements are written."""
    database.connect(request.param)
    return Texts()


def write(texts: Texts, statement: Query) -> tuple[str, list[object]]:
    return texts.write(statement, db.get_sql_context)


@pytest.mark.parametrize("name", KEPT)
def test_a_text_is_written_once(name: str, texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = KEPT[name]("one"), KEPT[name]("another")
    expected = written(second, db.get_sql_context)
    write(texts, first)
    monkeypatch.setattr(statement_forms, "written", lambda *_: pytest.fail("it was written again"))
    text, values = write(texts, second)
    assert (text, comparable(values)) == (expected[0], comparable(expected[1]))


@pytest.mark.parametrize("name", QUERIES)
def test_the_second_time_it_is_as_peewee_writes_it(name: str, texts: Texts) -> None:
    write(texts, QUERIES[name]())
    text, values = write(texts, QUERIES[name]())
    expected, expected_values = written(QUERIES[name](), db.get_sql_context)
    assert text == expected
    # New ids and times differ from one statement to the next.
    assert list(map(type, values)) == list(map(type, expected_values))


def test_forms_differ_where_texts_do(texts: Texts) -> None:
    statements: list[Query] = [
        Vm.select().where(Vm.id == "a"),
        Vm.select().where(Vm.id != "a"),
        Vm.select().where(Vm.name == "a"),
        Vm.select(Vm.id).where(Vm.id == "a"),
        Vm.select().where(Vm.id.in_(["a"])),
        Vm.select().where(Vm.id.in_(["a", "b"])),
        Vm.select().where(Vm.id.in_([])),
        Vm.select().where(Vm.id.is_null()),
        Vm.select().where(~(Vm.id == "a")),
        Vm.select().where(Vm.id == "a").limit(1),
        Vm.select().where(Vm.id == "a").offset(1),
        Vm.select().where(Vm.id == "a").order_by(Vm.id),
        Vm.select().where(Vm.id == "a").order_by(Vm.id.desc()),
        Vm.select().where(Vm.id == "a").distinct(),
        Vm.select().where((Vm.id == "a") & ((Vm.name == "b") | (Vm.name == "c"))),
        Vm.select().where(((Vm.id == "a") & (Vm.name == "b")) | (Vm.name == "c")),
        Nic.select(Nic.id).join(Vm).where(Vm.id == "a"),
        Vm.update(name="a").where(Vm.id == "a"),
        Vm.update(name="a"),
        Vm.delete().where(Vm.id == "a"),
        Vm.delete(),
    ]
    found = [write(texts, statement) for statement in statements]
    assert found == [written(statement, db.get_sql_context) for statement in statements]
    assert [write(texts, statement) for statement in statements] == found


def test_a_text_is_not_kept_when_the_values_are_not_found_as_peewee_puts_them(
    texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = statement_forms.written
    monkeypatch.setattr(statement_forms, "written", lambda *of: (original(*of)[0], ["other"]))
    assert write(texts, KEPT["by id"]("x"))[1] == ["other"]
    monkeypatch.undo()
    assert write(texts, KEPT["by id"]("x")) == written(KEPT["by id"]("x"), db.get_sql_context)


def test_the_columns_that_are_not_looked_at_are_plain() -> None:
    assert all(is_plain(kind) for kind in statement_forms._COLUMNS)
    kinds = {type(field) for model in ALL for field in model._meta.sorted_fields}
    assert kinds <= statement_forms._COLUMNS


def test_a_conditions_text_depends_on_what_its_value_is(texts: Texts) -> None:
    values: list[object] = ["a", True, 1, None, VmState.RUNNING, 1.5, fn.LOWER("A"), Vm.name]
    for field in (Vm.host, Vm.state, Vm.cpus, Vm.create_time, Host.enabled):
        for value in (*values, *([Host(id="a")] if field is Vm.host else ())):
            try:
                expected = written(Vm.select(Vm.id).where(Expression(field, "=", value)), db.get_sql_context)
            except (TypeError, ValueError):
                continue  # no value for such a column
            for _ in range(2):
                statement = Vm.select(Vm.id).where(Expression(field, "=", value))
                assert write(texts, statement) == expected


def test_operators_are_found_as_attributes() -> None:
    assert vars(OP) == OP


def test_texts_are_bounded(texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statement_forms, "_MAX_TEXTS", 3)
    for length in range(1, 10):
        statement = Vm.select(Vm.id).where(Vm.id.in_(["x"] * length))
        assert write(texts, statement) == written(statement, db.get_sql_context)
    assert len(texts._texts) <= 3


def test_a_connected_database_keeps_texts(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Zone.create(name="z")

    def names(name: str) -> list[str]:
        return [zone.name for zone in Zone.select(Zone.name, Zone.create_time).where(Zone.name == name)]

    assert names("z") == ["z"]
    monkeypatch.setattr(statement_forms, "written", lambda *_: pytest.fail("it was written again"))
    assert names("y") == []
