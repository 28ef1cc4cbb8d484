"""Adds what backups of running VMs are as good as."""

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


class BackupConsistency(Base):
    backup: Any = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    consistency: Any = TextField()
    reason: Any = TextField()


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Backup, BackupConsistency)):
        db.create_tables([BackupConsistency], safe=False)
