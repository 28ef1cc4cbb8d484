"""Statements that many calls execute: each is written once, and peewee builds nothing when it is executed again.

Their rows are those of the driver: text and numbers as they are, but SQLite has 0 and 1 for truth and text for times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from peewee import AsIs, ColumnBase, Insert, SelectBase, Update

from ostler_control.models import db

T = TypeVar("T")

# Given a name: what stands in the query for the value of that name.
Value = Callable[[str], ColumnBase]


class _Cursor(Protocol):
    """The driver's."""

    def fetchall(self) -> list[tuple[object, ...]]: ...


class Prepared:
    """A statement that is executed with other values each time. Thread-safe."""

    def __init__(self, make: Callable[[Value], SelectBase | Update | Insert]) -> None:
        """make: the query, given what stands for a value."""
        self._make = make
        # By kind of database.
        self._written: dict[type, tuple[str, list[object]]] = {}

    def rows(self, shape: type[T], **values: object) -> list[T]:
        """The rows for these values, which are bound as they are: an enum's member by its text. shape: as in
        `models.tuples`."""
        # Nothing checks that these are of this shape.
        return self._execute(values).fetchall()  # type: ignore[return-value]

    def first(self, shape: type[T], **values: object) -> T | None:
        """The first of these rows; None when there is none."""
        found = self.rows(shape, **values)
        return found[0] if found else None

    def run(self, **values: object) -> None:
        """Executes a change for these values."""
        self._execute(values)

    def _execute(self, values: Mapping[str, object]) -> _Cursor:
        database = db.obj
        text, parameters = self._written.get(type(database)) or self._write()
        cursor: _Cursor = database.execute_sql(text, [values[p.name] if type(p) is _Named else p for p in parameters])
        return cursor

    def _write(self) -> tuple[str, list[object]]:
        query = self._make(lambda name: AsIs(_Named(name), converter=False))
        text, parameters = query.bind(db.obj).sql()
        written = self._written[type(db.obj)] = text, list(parameters)
        return written


class _Named:
    """Stands among a text's parameters for the value of this name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
