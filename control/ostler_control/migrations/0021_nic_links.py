"""Adds network interfaces whose link is down."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import DateTimeField, ForeignKeyField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class Nic(Base):
    pass


class NicDown(Base):
    nic: Any = ForeignKeyField(Nic, unique=True, on_delete="CASCADE")


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Nic, NicDown)):
        db.create_tables((NicDown,), safe=False)
