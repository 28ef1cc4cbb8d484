"""Adds when a VM last booted from a backup, to test it."""

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


class Backup(Base):
    pass


class BackupBoot(Base):
    backup: Any = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    sign: Any = TextField(default="")
    error: Any = TextField(default="")


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Backup, BackupBoot)):
        db.create_tables((BackupBoot,), safe=False)
