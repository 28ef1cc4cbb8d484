"""Queries that many calls ask: each is written once, and peewee builds nothing when it is asked again.

Their rows are those of the driver: text and numbers as they are, but SQLite has 0 and 1 for truth and text for times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from peewee import AsIs, ColumnBase, SelectBase

from ostler_control.database import is_sqlite
from ostler_control.models import db

T = TypeVar("T")

# Given a name: what stands in the query for the value of that name.
Value = Callable[[str], ColumnBase]


class Prepared:
    """A query that is asked with other values each time. Thread-safe."""

    def __init__(self, make: Callable[[Value], SelectBase]) -> None:
        """make: the query, given what stands for a value."""
        self._make = make
        # By kind of database.
        self._written: dict[bool, tuple[str, list[object]]] = {}

    def rows(self, shape: type[T], **values: object) -> list[T]:
        """The rows for these values, which are bound as they are: an enum's member by its text. shape: as in
        `models.tuples`."""
        text, parameters = self._text()
        bound = [values[p.name] if type(p) is _Named else p for p in parameters]
        found: list[T] = db.execute_sql(text, bound).fetchall()
        return found

    def first(self, shape: type[T], **values: object) -> T | None:
        """The first of these rows; None when there is none."""
        found = self.rows(shape, **values)
        return found[0] if found else None

    def _text(self) -> tuple[str, list[object]]:
        kind = is_sqlite()
        if kind not in self._written:
            query = self._make(lambda name: AsIs(_Named(name), converter=False))
            text, parameters = query.bind(db.obj).sql()
            self._written[kind] = text, list(parameters)
        return self._written[kind]


class _Named:
    """Stands among a text's parameters for the value of this name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
