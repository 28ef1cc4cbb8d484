"""The statements that are run most, without a query: the row with a key, a new row, and a change of the row with a key.

A query is a tree of some ten objects, in which `statement_forms` must find the form and the values each time. These
know theirs. Their text is what peewee writes for the query that each stands for.
"""

from __future__ import annotations

from peewee import OP, Context, Expression, Field, Model, ModelInsert, Node

from ostler_control.models.queries import Change, selection, whole
from ostler_control.models.rows import Make
from ostler_control.models.values import changed, in_order, inserted


class Direct(Node):
    """A statement that knows its `form`, which is what its text depends on, and its `values`, in the text's order."""

    def __init__(self, form: tuple[object, ...], values: list[object]) -> None:
        self.form, self.values = form, values


class RowByKey(Direct):
    """SELECT of the row of a model with this primary key."""

    def __init__(self, model: type[Model], key: str, make: Make) -> None:
        super().__init__((RowByKey, model), [key])
        self._model, self._key, self._make = model, key, make

    def row(self) -> object | None:
        """Executes it; None when there is no such row."""
        rows = self._make(self._model._meta.database.execute(self).fetchall())
        return rows[0] if rows else None

    def __sql__(self, context: Context) -> Context:
        query = selection(self._model, ()).where(self._model._meta.primary_key == self._key)
        return _written(query, context)


class NewRow(Direct):
    """INSERT of a row. given: by the names of all its columns; may_conflict: then it does nothing."""

    def __init__(self, model: type[Model], given: dict[str, object], values: list[object], may_conflict: bool) -> None:
        super().__init__((NewRow, model, may_conflict, *given), values)
        self._model, self._given, self._may_conflict = model, given, may_conflict

    def __sql__(self, context: Context) -> Context:
        query = ModelInsert(self._model, _by_field(self._model, self._given))
        return _written(query.on_conflict_ignore() if self._may_conflict else query, context)


class ChangedRow(Direct):
    """UPDATE of the row of a model with this primary key. given: by the names of the columns."""

    def __init__(self, model: type[Model], key: str, given: dict[str, object], values: list[object]) -> None:
        super().__init__((ChangedRow, model, *given), [*values, key])
        self._model, self._key, self._given = model, key, given

    def __sql__(self, context: Context) -> Context:
        query = Change(self._model, _by_field(self._model, self._given))
        return _written(query.where(self._model._meta.primary_key == self._key), context)


def _by_field(model: type[Model], given: dict[str, object]) -> dict[Field, object]:
    return {model._meta.fields[name]: value for name, value in given.items()}


def _written(query: Node, context: Context) -> Context:
    made: Context = context.sql(query)  # type: ignore[no-untyped-call]
    return made


def row_by_key(model: type[Model], conditions: tuple[object, ...]) -> RowByKey | None:
    """The statement for the row for which these hold, if they are one: that its primary key is a certain text."""
    if len(conditions) != 1 or type(conditions[0]) is not Expression:
        return None
    of = vars(conditions[0])
    key = of["rhs"]
    if of["lhs"] is not model._meta.primary_key or of["op"] != OP.EQ or type(key) is not str:
        return None
    make = whole(model)
    return None if make is None else RowByKey(model, key, make)


def new_row(row: Model, may_conflict: bool = False) -> NewRow | None:
    """The statement that inserts this row, if nothing of it is for peewee or the database to find out. may_conflict:
    see `NewRow`."""
    model, given = type(row), row.__data__
    key = model._meta.primary_key
    if isinstance(key, bool) or model._meta.composite_key or given.get(key.name) is None:
        return None
    if any(given[name] is None for name in row.__rel__):
        return None  # it refers to a row that had no key when it was assigned, and may have one now
    columns = inserted(model, tuple(given))
    values = None if columns is None else in_order(columns, list(given.values()))
    return None if values is None else NewRow(model, given, values, may_conflict)


def changed_row(model: type[Model], key: str, given: dict[str, object]) -> ChangedRow | None:
    """The statement that gives these columns of a row these values, if none is for the database to find out."""
    columns = changed(model, tuple(given))
    values = None if columns is None else in_order(columns, list(given.values()))
    return None if values is None else ChangedRow(model, key, given, values)
