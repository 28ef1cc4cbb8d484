"""Adds labels of zones, ISO images and backups."""

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


class Zone(Base):
    pass


class Iso(Base):
    pass


class Backup(Base):
    pass


class ZoneLabel(Base):
    object: Any = ForeignKeyField(Zone, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class IsoLabel(Base):
    object: Any = ForeignKeyField(Iso, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class BackupLabel(Base):
    object: Any = ForeignKeyField(Backup, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


NEW = (ZoneLabel, IsoLabel, BackupLabel)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Zone, Iso, Backup, *NEW)):
        db.create_tables(NEW, safe=False)
