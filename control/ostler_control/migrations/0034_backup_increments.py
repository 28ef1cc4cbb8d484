"""Adds what the disks of backups build on."""

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


class BackupDisk(Base):
    pass


class BackupIncrement(Base):
    disk: Any = ForeignKeyField(BackupDisk, unique=True, on_delete="CASCADE")
    parent: Any = ForeignKeyField(BackupDisk, null=True, on_delete="RESTRICT")
    full_reason: Any = TextField(default="")


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((BackupDisk, BackupIncrement)):
        db.create_tables((BackupIncrement,), safe=False)
