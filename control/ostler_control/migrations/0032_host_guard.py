"""Adds what is known of the guardians of hosts that fence themselves."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import DateTimeField, FloatField, ForeignKeyField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class Host(Base):
    pass


class HostGuard(Base):
    host: Any = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    state: Any = TextField(default="off")
    term: Any = TextField(default="")
    pool_id: Any = TextField(default="")
    ends_within_s: Any = FloatField(default=0.0)
    reason: Any = TextField(default="")


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Host, HostGuard)):
        db.create_tables((HostGuard,), safe=False)
