"""Queries of the models: `rows` makes their rows, and they are begun and copied faster than peewee's own.

Every method of a query copies it, so that one query can become several; peewee goes through five classes for it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

from peewee import (
    OP,
    ROW,
    SQL,
    ColumnBase,
    CursorWrapper,
    DoesNotExist,
    Field,
    Model,
    ModelSelect,
    ModelUpdate,
    fn,
)

from ostler_control.models.rows import Make, Row, Rows, to_objects, to_tuples

M = TypeVar("M", bound=Model)
_ONE = SQL("1")
_COUNT = fn.COUNT(_ONE)
# For each comparison peewee looks three operators up by name in this table, by way of a function. Attributes need none.
vars(OP).update(OP)
_TUPLES, _OBJECTS = ROW.TUPLE, (None, ROW.MODEL)


class _Cursor(Protocol):
    def fetchall(self) -> list[Row]: ...


class Selection(ModelSelect):
    """A SELECT of a model's columns, and of others that are joined with it."""

    def clone(self) -> Self:
        clone = object.__new__(type(self))
        of = clone.__dict__
        of.update(self.__dict__)
        of["_cursor_wrapper"] = None
        of["_from_list"] = list(of["_from_list"])
        of["_joins"] = {source: list(joined) for source, joined in of["_joins"].items()}
        of["_hash"] = hash((type(clone), of["_alias"] or id(clone)))
        return clone

    def where(self, *conditions: object) -> Self:
        clone = self.clone()
        of = clone.__dict__
        for condition in conditions:
            of["_where"] = condition if of["_where"] is None else of["_where"] & condition
        return clone

    def get(self, database: object = None) -> Model:
        clone = self.clone()
        clone.__dict__.update(_limit=1, _offset=None)
        for row in clone:
            return row
        raise missing(self)

    def exists(self, database: object = None) -> bool:
        if not self._is_plain():
            return super().exists()
        limit = vars(self)["_limit"]
        return bool(self._values((_ONE,), 1 if limit is None else min(limit, 1)))

    def count(self, database: object = None, clear_limit: bool = False) -> int:
        of = vars(self)
        limited = of["_limit"] is not None or of["_offset"] is not None
        if limited or of["_for_update"] or not self._is_plain():
            return super().count(clear_limit=clear_limit)
        ((number,),) = self._values((_COUNT,), None)
        return number

    def as_tuples(self) -> list[object]:
        """Its rows, whatever else they would become."""
        of = vars(self)
        make = to_tuples(of["_returning"])
        if make is None:
            return list(self.tuples())
        return make(of["_database"].execute(self).fetchall())

    def _is_plain(self) -> bool:
        """Whether its rows are those of its sources for which the condition holds, whatever its columns are."""
        of = vars(self)
        distinct = of["_distinct"] is not None or of["_simple_distinct"]  # () are all columns
        if distinct or of["_group_by"] or of["_having"] or of["_windows"] or of["_cte_list"]:
            return False
        return of["_is_default"] or all(isinstance(column, Field) for column in of["_returning"])

    def _values(self, columns: Sequence[object], limit: int | None) -> list[tuple[int, ...]]:
        """The rows with these columns in place of its own, in no order."""
        clone = self.clone()
        clone.__dict__.update(_returning=columns, _is_default=False, _order_by=None, _limit=limit)
        found: list[tuple[int, ...]] = vars(self)["_database"].execute(clone).fetchall()
        return found

    def _get_cursor_wrapper(self, cursor: _Cursor) -> CursorWrapper:
        of = vars(self)
        alone = not of["_joins"] and len(of["_from_list"]) == 1
        make = _make(of["_row_type"], self.model if alone else None, of["_returning"])
        if make is not None:
            return Rows(cursor, make(cursor.fetchall()))
        wrapper: CursorWrapper = super()._get_cursor_wrapper(cursor)  # type: ignore[misc]  # the stubs leave it out
        return wrapper


class Change(ModelUpdate):
    """An UPDATE of a model."""

    def _get_cursor_wrapper(self, cursor: _Cursor) -> CursorWrapper:
        of = vars(self)
        make = _make(of["_row_type"], self.model, of["_returning"])
        if make is not None:
            return Rows(cursor, make(cursor.fetchall()))
        wrapper: CursorWrapper = super()._get_cursor_wrapper(cursor)  # type: ignore[misc]  # the stubs leave it out
        return wrapper


def _make(kind: int | None, model: type[Model] | None, columns: Sequence[object]) -> Make | None:
    """What makes the rows of a query that asks for this kind; None: peewee does. model: unless others are joined."""
    if kind == _TUPLES:
        return to_tuples(columns)
    return to_objects(model, columns) if model is not None and kind in _OBJECTS else None


@functools.cache
def whole(model: type[Model]) -> Make | None:
    """What makes objects of rows with all columns of a model."""
    return to_objects(model, model._meta.sorted_fields)


def missing(query: ModelSelect[M]) -> DoesNotExist:
    """The error when this query has no row."""
    text, values = query.paginate(1, 1).sql()
    kind: type[DoesNotExist] = vars(query.model)["DoesNotExist"]
    return kind(f"{query.model} instance matching query does not exist:\nSQL: {text}\nParams: {values}")


@functools.cache
def _all_columns(model: type[Model]) -> Selection:
    return Selection(model, model._meta.sorted_fields, is_default=True)


def selection(model: type[Model], columns: Sequence[object]) -> Selection:
    """A SELECT of these columns, or of all of its own."""
    query = _all_columns(model).clone()
    of = query.__dict__
    of["_database"] = model._meta.database
    if columns:
        if not all(isinstance(column, ColumnBase) for column in columns):
            return Selection(model, columns)  # with all columns of some table
        of["_returning"], of["_is_default"] = list(columns), False
    return query
