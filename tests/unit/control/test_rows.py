"""Rows become what peewee makes of them; `conftest.py` compares those of all tests."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from ostler_control.database import is_sqlite, locked
from ostler_control.models import ALL, Cluster, Host, HostState, Nic, Vm, VmState, Zone, db, first_tuple, tuples
from ostler_control.models.enum_columns import EnumField
from ostler_control.models.queries import Selection
from ostler_control.models.rows import Rows
from peewee import (
    JOIN,
    BlobField,
    BooleanField,
    DateTimeField,
    DoesNotExist,
    Field,
    FloatField,
    ForeignKeyField,
    IntegerField,
    Model,
    ModelSelect,
    ModelUpdate,
    fn,
)

from tests.fleets import Fleet, make_fleet

TIMES = (datetime.datetime(2026, 1, 2, 3, 4, 5, 678_901), datetime.datetime(2026, 1, 2))
OTHER = Host.alias("other")


def value(field: Field, which: int) -> object:
    while isinstance(field, ForeignKeyField):
        field = field.rel_field
    if isinstance(field, EnumField):
        return sorted(field._by_text.values())[-which]
    if isinstance(field, DateTimeField):
        return TIMES[which]
    if isinstance(field, BlobField):
        return b"\x00\xff" * which
    if isinstance(field, BooleanField):
        return bool(which)
    if isinstance(field, (IntegerField, FloatField)):
        return which
    return f"{field.name}-{which}é"


@pytest.fixture
def rows_of_all(fresh_database: str) -> None:
    """Two rows of every model, whatever they refer to; the second with all that may be null."""
    db.execute_sql("PRAGMA foreign_keys = 0" if is_sqlite() else "SET session_replication_role = replica")
    for model in ALL:
        for which in (0, 1):
            values = {
                field.name: None if field.null and which else value(field, which) for field in model._meta.sorted_fields
            }
            model.insert(**values).execute()


@pytest.fixture
def fleet(fresh_database: str) -> Fleet:
    fleet = make_fleet(3)
    fleet.vm("a")
    fleet.vm("b")
    return fleet


def whole(made: Any) -> object:
    """All that a row has become, with the types."""
    if isinstance(made, Model):
        return type(made), whole(made.__data__), whole(made.__rel__), whole(vars(made)["_dirty"])
    if isinstance(made, dict):
        return [(key, whole(one)) for key, one in made.items()]
    if isinstance(made, (list, tuple)):
        return type(made), [whole(one) for one in made]
    return type(made), made


def peewees(query: Selection) -> ModelSelect[Any]:
    """The same query, of peewee's own class."""
    own: ModelSelect[Any] = ModelSelect(query.model, ())
    vars(own).update(vars(query), _cursor_wrapper=None)
    return own


@pytest.mark.usefixtures("rows_of_all")
def test_the_rows_of_every_model() -> None:
    for model in ALL:
        query: Any = model.select().order_by(*model._meta.sorted_fields[:2])
        assert len(query) == 2
        assert whole(list(query)) == whole(list(peewees(query)))
        assert whole(list(query.tuples())) == whole(list(peewees(query).tuples())) == whole(tuples(query, tuple))
        assert whole(first_tuple(query, tuple)) == whole(tuples(query, tuple)[0])
        # Peewee did none of it.
        assert {type(query.execute()), type(query.tuples().execute())} == {Rows}
        some: Any = query.select(*model._meta.sorted_fields[1:3])
        assert whole(list(some)) == whole(list(peewees(some)))


UNUSUAL: dict[str, Callable[[], Any]] = {
    "functions": lambda: Vm.select(Vm.state, fn.MAX(Vm.create_time)).group_by(Vm.state),
    "a renamed column": lambda: Vm.select(Vm.state.alias("other")),
    "a column as it is kept": lambda: Vm.select(Vm.create_time.coerce(False)),
    "a column twice": lambda: Vm.select(Vm.id, Vm.name, Vm.id).order_by(Vm.name),
    "several models": lambda: Host.select(Host, Cluster, Zone).join(Cluster).join(Zone).order_by(Host.name),
    "columns of several models": lambda: Host.select(Host.state, Cluster.enabled).join(Cluster),
    "columns that have no row": lambda: Vm.select(Vm.name, Host.state).join(Host, JOIN.LEFT_OUTER).order_by(Vm.name),
    "an alias of a table": lambda: OTHER.select(OTHER.state, OTHER.enabled).order_by(OTHER.name),
    "both": lambda: Vm.select(Vm.state).where(Vm.name == "a") | Vm.select(Vm.state).where(Vm.name == "b"),
    "the columns of another model": lambda: Vm.select(Zone).join(Zone, on=True),
}


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("shape", ["models", "tuples", "dicts", "namedtuples", "objects"])
def test_unusual_rows(name: str, shape: str) -> None:
    def made(query: Any) -> object:
        return [whole(vars(one)) if isinstance(one, Model) else tuple(one) for one in getattr(query, shape)()]

    query = UNUSUAL[name]()
    found = made(query)
    assert found
    if isinstance(query, Selection):
        assert found == made(peewees(query))
    if shape == "tuples":
        assert found == tuples(query, tuple)


@pytest.mark.usefixtures("fleet")
def test_rows_that_an_update_returns() -> None:
    def changed(kind: type[ModelUpdate], *columns: Any) -> Any:
        return kind(Vm, {Vm.state: VmState.FAILED}).where(Vm.name == "a").returning(*columns)

    for columns in ((Vm,), (Vm.id, Vm.state), (Vm.name, fn.LOWER(Vm.name))):
        query = Vm.update(state=VmState.FAILED).where(Vm.name == "a").returning(*columns)
        assert whole(list(query.execute())) == whole(list(changed(ModelUpdate, *columns).execute()))
        assert whole(list(query.tuples().execute())) == whole(list(changed(ModelUpdate, *columns).tuples().execute()))
    assert type(Vm.update(state=VmState.FAILED).returning(Vm).execute()) is Rows


def test_a_time_that_is_none_stays_as_it_is(sqlite_database: str) -> None:
    Zone.create(name="z")
    for text in ("", "yesterday", "2026-01-02", "2026-01-02 03:04:05", "2026-01-02T03:04:05Z", "2026-01-02 03:04"):
        db.execute_sql("UPDATE zone SET create_time = ?", (text,))
        query: Any = Zone.select()
        assert whole(list(query)) == whole(list(peewees(query)))


SOME: dict[str, Callable[[], Any]] = {
    "all": Vm.select,
    "none": lambda: Vm.select().where(Vm.name == "none"),
    "one": lambda: Vm.select(Vm.name).where(Vm.name == "a"),
    "joined": lambda: Host.select(Host.name).join(Cluster).where(Cluster.enabled),
    "ordered": lambda: Vm.select().order_by(Vm.name.desc()),
    "limited": lambda: Vm.select().order_by(Vm.name).limit(1),
    "limited to none": lambda: Vm.select().limit(0),
    "beyond": lambda: Vm.select(Vm.id).order_by(Vm.name).limit(5).offset(2),
    "distinct": lambda: Vm.select(Vm.state).distinct(),
    "beyond distinct": lambda: Vm.select(Vm.state).distinct().limit(1).offset(1),
    "grouped": lambda: Vm.select(Vm.state, fn.COUNT(Vm.id).alias("n")).group_by(Vm.state),
    "grouped with more": lambda: Vm.select(Vm.state).group_by(Vm.state).having(fn.COUNT(Vm.id) > 2),
    "locked": lambda: locked(Vm.select().where(Vm.name == "a")),
    "aggregate": lambda: Vm.select(fn.MAX(Vm.name)).where(Vm.name == "none"),
}


def got(query: Any) -> object:
    """The one row, or what the error says when there is none."""
    try:
        return whole(query.get())
    except DoesNotExist as error:
        return type(error), str(error)


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("name", SOME)
def test_questions_about_rows(name: str) -> None:
    query = SOME[name]()
    own = peewees(query)
    assert query.exists() is own.exists()
    assert query.count() == own.count()
    assert query.count(clear_limit=True) == own.count(clear_limit=True)
    assert got(query) == got(own)
    assert whole(query.first()) == whole(own.first())
    assert len(query) == len(own)


@pytest.fixture
def two(fleet: Fleet) -> tuple[Any, Any]:
    """A query and one that was made of it."""
    query: Any = Nic.select(Nic.id)
    return query, query.join(Vm).where(Vm.name == "a").order_by(Vm.id).limit(3)


def test_a_query_is_not_changed_by_one_made_of_it(two: tuple[Any, Any]) -> None:
    first, second = two
    assert first.sql() == Nic.select(Nic.id).sql()
    assert first != second
    assert len({first, first.clone(), second}) == 3
    third = second.join(Host)
    assert [len(vars(query)["_joins"]) for query in (first, second, third)] == [0, 1, 2]


@pytest.mark.usefixtures("fleet")
def test_a_query_may_be_read_again_and_in_part() -> None:
    query: Any = Host.select().order_by(Host.name)
    assert [one.name for one in query] == [one.name for one in query] == ["h1", "h2", "h3"]
    assert (query[1].name, query[-1].name, [one.name for one in query[:2]]) == ("h2", "h3", ["h1", "h2"])
    assert [one.name for one in query.iterator()] == ["h1", "h2", "h3"]
    assert [state for (state,) in Host.select(Host.state).tuples().iterator()] == [HostState.UP] * 3
