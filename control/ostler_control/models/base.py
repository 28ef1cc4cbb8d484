"""The database object and what all models share."""

from __future__ import annotations

import datetime
import uuid
from typing import Self

from peewee import ColumnBase, DatabaseProxy, DateTimeField, Model, ModelSelect, ModelUpdate, TextField

from ostler_control.models.queries import Change, selection

# Unbound until `ostler_control.database.connect` gives it SQLite or PostgreSQL.
db = DatabaseProxy()


def new_id() -> str:
    """A new object's UUID."""
    return str(uuid.uuid4())


def now() -> datetime.datetime:
    """The present moment, UTC, without a zone: how every timestamp is stored."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class BaseModel(Model):
    """Every table: a UUID as text, and when the row was made."""

    id = TextField(primary_key=True, default=new_id)
    create_time = DateTimeField(default=now, index=True)

    class Meta:
        database = db
        legacy_table_names = False

    @classmethod
    def select(cls, *columns: object) -> ModelSelect[Self]:
        return selection(cls, columns)  # type: ignore[return-value]  # it makes objects of its model

    @classmethod
    def update(cls, data: object = None, /, **changed: object) -> ModelUpdate:
        return Change(cls, cls._normalize_data(data, changed))  # type: ignore[attr-defined]  # the stubs leave it out

    @classmethod
    def get_or_none(cls, *conditions: ColumnBase) -> Self | None:
        """The first row for which these hold. When there is none, as mostly, peewee's own would write the statement
        once more, into an error that nobody sees."""
        query = cls.select().where(*conditions) if conditions else cls.select()
        row: Self | None = query.first()
        return row
