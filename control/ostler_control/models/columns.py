"""Queries whose rows are typed tuples of a few columns."""

from __future__ import annotations

from typing import TypeVar, cast

from peewee import SelectBase

from ostler_control.models.queries import Selection

T = TypeVar("T")


def tuples(query: SelectBase, shape: type[T]) -> list[T]:
    """The query's rows as tuples of this type: `tuples(Host.select(Host.id, Host.name), tuple[str, str])`.

    Nothing checks that the shape is the query's; it stands beside the columns, where a reader can.
    """
    if isinstance(query, Selection):
        return cast("list[T]", query.as_tuples())
    return list(query.tuples())


def first_tuple(query: SelectBase, shape: type[T]) -> T | None:
    """The first row as `tuples` gives it; None when there is none."""
    rows = tuples(query.limit(1), shape)
    return rows[0] if rows else None
