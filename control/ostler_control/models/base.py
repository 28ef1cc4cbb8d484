"""The database object and what all models share."""

from __future__ import annotations

import datetime
import uuid

from peewee import DatabaseProxy, DateTimeField, Model, TextField

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
