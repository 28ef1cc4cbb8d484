"""Rows of several tables by one statement, as objects."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeVar, overload

from peewee import Field, Model

from ostler_control.models.rows import Make, Row, to_objects

A = TypeVar("A", bound=Model)
B = TypeVar("B", bound=Model)
C = TypeVar("C", bound=Model)


def columns_of(*models: type[Model]) -> list[Field]:
    """Every column of these models, in order: what a query asks for whose rows `objects` makes."""
    return [column for model in models for column in model._meta.sorted_fields]


@overload
def objects(rows: Sequence[Row], first: type[A], /) -> list[tuple[A]]: ...
@overload
def objects(
    rows: Sequence[Row], first: type[A], second: type[B], third: type[C], /
) -> list[tuple[A, B | None, C | None]]: ...
def objects(rows: Sequence[Row], /, *models: type[Model]) -> Sequence[object]:
    """The driver's rows with the `columns_of` these models: of each an object, or None where an outer join has found
    none. The first model has one in every row."""
    made = list[list[object]]()
    for make, key, of_model in _makers(models):
        found = iter(make([row[of_model] for row in rows if row[key] is not None]))
        made.append([None if row[key] is None else next(found) for row in rows])
    return list(zip(*made, strict=True))


@functools.cache
def _makers(models: tuple[type[Model], ...]) -> list[tuple[Make, int, slice]]:
    """Of each model: what makes its objects, where a row has their key, and where all their columns."""
    makers, begin = list[tuple[Make, int, slice]](), 0
    for model in models:
        columns = columns_of(model)
        make = to_objects(model, columns)
        assert make is not None, f"{model.__name__} has a column of an unknown kind"
        key = next(number for number, column in enumerate(columns) if column.primary_key)
        makers.append((make, begin + key, slice(begin, begin + len(columns))))
        begin += len(columns)
    return makers
