"""Makes rows of the database into objects of a model, and into tuples.

For each column of each row peewee asks what the column is, converts the value and assigns it through the model's
attribute. Here it is found out once for each list of columns what there is to convert, and the rest is taken as the
driver gives it. The result is peewee's; what this does not know, it leaves to peewee.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence

from peewee import (
    BigIntegerField,
    BlobField,
    BooleanField,
    CursorWrapper,
    DateTimeField,
    DoubleField,
    Field,
    FieldAccessor,
    FloatField,
    ForeignKeyAccessor,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)

from ostler_control.models.enum_columns import EnumAccessor, EnumField

Row = tuple[object, ...]
Make = Callable[[list[Row]], list[object]]
_Convert = Callable[..., object]
_Conversions = Sequence[tuple[int, _Convert]]

_AS_GIVEN = frozenset({BigIntegerField, BlobField, DoubleField, FloatField, IntegerField, TextField})
# They set what `python_value` made, and nothing else that a row from the database has.
_ACCESSORS = frozenset({EnumAccessor, FieldAccessor, ForeignKeyAccessor})

# By what a row becomes and the ids of the columns; None: left to peewee.
_makers: dict[tuple[object, ...], tuple[Make | None, object]] = {}


class Rows(CursorWrapper):
    """The rows of a statement, all read and made."""

    def __init__(self, cursor: object, rows: list[object]) -> None:
        super().__init__(cursor)
        self.row_cache = rows
        self.count = len(rows)
        self.initialized = self.populated = True

    def __getitem__(self, item: int | slice) -> object:
        return self.row_cache[item]

    def iterator(self) -> Iterable[object]:  # type: ignore[override]  # it may be any iterable
        return iter(self.row_cache)


def to_objects(model: type[Model], columns: Sequence[object]) -> Make | None:
    """What makes objects of this model out of rows with these of its columns."""
    return _kept((model, *map(id, columns)), columns, lambda fields: _objects(model, fields))


def to_tuples(columns: Sequence[object]) -> Make | None:
    """What makes tuples out of rows with these columns, of any models."""
    return _kept(tuple(map(id, columns)), columns, _tuples)


def _kept(
    key: tuple[object, ...], columns: Sequence[object], make: Callable[[list[Field]], Make | None]
) -> Make | None:
    if kept := _makers.get(key):
        return kept[0]
    fields = [column for column in columns if isinstance(column, Field) and _is_of_its_model(column)]
    if len(fields) != len(columns):
        return None  # a function or the like: it is another object, with another id, the next time
    _makers[key] = made = make(fields), fields  # which keeps the ids from being given to other objects
    return made[0]


def _is_of_its_model(field: Field) -> bool:
    """Rather than an alias or a copy with other options."""
    return field.model._meta.fields.get(field.name) is field


def _objects(model: type[Model], fields: list[Field]) -> Make | None:
    conversions = _conversions(fields)
    names = [field.name for field in fields]
    known = all(field.model is model and type(vars(model)[field.name]) in _ACCESSORS for field in fields)
    if conversions is None or not known or len(set(names)) < len(names) or model.__init__ is not Model.__init__:
        return None
    new = object.__new__

    def make(rows: list[Row]) -> list[object]:
        made: list[object] = []
        for row in rows:
            data = dict(zip(names, row, strict=True))
            for position, convert in conversions:
                if (value := row[position]) is not None:
                    data[names[position]] = convert(value)
            one = new(model)
            one.__data__ = data
            one.__rel__ = {}
            one._dirty = set()  # type: ignore[attr-defined]  # the stubs leave it out
            made.append(one)
        return made

    return make


def _tuples(fields: list[Field]) -> Make | None:
    conversions = _conversions(fields)
    if not conversions:
        return None if conversions is None else list

    def make(rows: list[Row]) -> list[object]:
        made: list[object] = []
        for row in rows:
            values = list(row)
            for position, convert in conversions:
                if (value := row[position]) is not None:
                    values[position] = convert(value)
            made.append(tuple(values))
        return made

    return make


def _conversions(fields: list[Field]) -> _Conversions | None:
    """By position, of those columns that need one; None when a column is of an unknown kind."""
    found: list[tuple[int, _Convert]] = []
    for position, field in enumerate(fields):
        held = field
        while type(held) is ForeignKeyField:
            held = held.rel_field
        if type(held) is BooleanField:
            found.append((position, bool))
        elif type(held) is DateTimeField:
            found.append((position, _time(held)))
        elif type(held) is EnumField:
            found.append((position, held.member))
        elif type(held) not in _AS_GIVEN:
            return None
    return found


def _time(field: Field) -> _Convert:
    """What SQLite gives is a text."""

    def convert(value: object) -> object:
        if type(value) is not str:
            return value
        try:
            return datetime.datetime.fromisoformat(value)
        except ValueError:
            return field.python_value(value)  # type: ignore[no-untyped-call]

    return convert
