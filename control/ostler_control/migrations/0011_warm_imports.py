"""Adds what a warm import has done at its source."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BooleanField, DateTimeField, ForeignKeyField, Model, TextField


class BaseModel(Model):
    """Every table: a UUID as text, and when the row was made."""

    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class VmImport(BaseModel):
    pass


class WarmImport(BaseModel):
    vm_import: Any = ForeignKeyField(VmImport, backref="warm", unique=True, on_delete="CASCADE")
    cut_over: Any = BooleanField(default=False)
    enabled_tracking: Any = BooleanField(default=False)
    shut_down: Any = BooleanField(default=False)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    """A new table; imports under way are cold."""
    with db.bind_ctx([VmImport, WarmImport]):
        db.create_tables([WarmImport], safe=False)
