"""Values on their way into the database: most are what the driver gets anyway, and need no conversion."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Sequence

from peewee import (
    BigIntegerField,
    BlobField,
    BooleanField,
    DateTimeField,
    DoubleField,
    Field,
    FloatField,
    ForeignKeyField,
    IntegerField,
    Model,
    Node,
    TextField,
)

from ostler_control.models.enum_columns import EnumField

# Of the columns of these classes: which class of values the driver gets as they are.
AS_GIVEN: dict[type[Field], type | None] = {
    BigIntegerField: int,
    BlobField: None,
    BooleanField: bool,
    DateTimeField: datetime.datetime,
    DoubleField: float,
    EnumField: None,
    FloatField: float,
    IntegerField: int,
    TextField: str,
}
# Of each column of an INSERT or an UPDATE, in the order of its text: where its value is among those that are given, the
# class of values that the driver gets as they are, and what makes such a value of another.
Columns = Sequence[tuple[int, type | None, Callable[..., object]]]


@functools.cache
def inserted(model: type[Model], names: tuple[str, ...]) -> Columns | None:
    """The columns of an INSERT with a value for each of these; None when another has a default, or one is of a
    kind that is not known here."""
    return changed(model, names) if {field.name for field in model._meta.defaults} <= set(names) else None


@functools.cache
def changed(model: type[Model], names: tuple[str, ...]) -> Columns | None:
    """The columns of an UPDATE with a value for each of these; None when one is of a kind that is not known here."""
    fields = [model._meta.fields[name] for name in names]
    kinds = [type(_held(field)) for field in fields]
    if not AS_GIVEN.keys() >= set(kinds):
        return None
    order = sorted(range(len(fields)), key=lambda position: vars(fields[position])["_sort_key"])
    return tuple((position, AS_GIVEN[kinds[position]], fields[position].db_value) for position in order)


def in_order(columns: Columns, given: Sequence[object]) -> list[object] | None:
    """The values for the driver, in the order of the text; None when one is an expression, which is text itself."""
    values: list[object] = []
    for position, kind, convert in columns:
        value = given[position]
        if value is not None and value.__class__ is not kind:
            if isinstance(value, Node) and not isinstance(value, Model):
                return None
            value = convert(value)
        values.append(value)
    return values


def _held(field: Field) -> Field:
    """The column whose values a foreign key has."""
    while type(field) is ForeignKeyField:
        field = field.rel_field
    return field
