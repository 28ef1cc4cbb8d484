"""Adds which fenced hosts do not answer, and since when."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import DateTimeField, ForeignKeyField, Model, TextField


class Host(Model):
    id: Any = TextField(primary_key=True)

    class Meta:
        legacy_table_names = False


class HostSilence(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )
    host: Any = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    time: Any = DateTimeField()

    class Meta:
        legacy_table_names = False


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx([Host, HostSilence]):
        db.create_tables([HostSilence], safe=False)
