"""Adds schedules of backups, and which backups they have taken."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import DateTimeField, ForeignKeyField, IntegerField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class Vm(Base):
    pass


class Backup(Base):
    pass


class BackupSchedule(Base):
    vm: Any = ForeignKeyField(Vm, on_delete="CASCADE")
    interval: Any = TextField()
    minute: Any = IntegerField(default=0)
    hour: Any = IntegerField(default=0)
    day: Any = IntegerField(default=1)
    keep_last: Any = IntegerField(default=0)
    keep_daily: Any = IntegerField(default=0)
    keep_weekly: Any = IntegerField(default=0)
    keep_monthly: Any = IntegerField(default=0)
    next_time: Any = DateTimeField(index=True)
    last_error: Any = TextField(default="")


class ScheduledBackup(Base):
    backup: Any = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    schedule: Any = ForeignKeyField(BackupSchedule, on_delete="CASCADE")


NEW = (BackupSchedule, ScheduledBackup)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Vm, Backup, *NEW)):
        db.create_tables(NEW, safe=False)
