"""Adds hosts that are switched off to save power."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BooleanField, DateTimeField, ForeignKeyField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class Host(Base):
    pass


class HostPower(Base):
    host: Any = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    state: Any = TextField()
    state_time: Any = DateTimeField()
    automatic: Any = BooleanField(default=False)
    operation_id: Any = TextField(default="")


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Host, HostPower)):
        db.create_tables((HostPower,), safe=False)
