"""Adds the hosts that affinity groups name."""

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


class AffinityGroup(Base):
    pass


class Host(Base):
    pass


class AffinityHost(Base):
    group: Any = ForeignKeyField(AffinityGroup, on_delete="CASCADE")
    host: Any = ForeignKeyField(Host, on_delete="CASCADE")

    class Meta:
        indexes = ((("group", "host"), True),)


def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((AffinityGroup, Host, AffinityHost)):
        db.create_tables((AffinityHost,), safe=False)
