"""Adds schedules of VM snapshots, and which snapshots they have taken."""

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


class VmSnapshot(Base):
    pass


class VmSnapshotSchedule(Base):
    vm: Any = ForeignKeyField(Vm, on_delete="CASCADE")
    interval: Any = TextField()
    minute: Any = IntegerField()
    hour: Any = IntegerField()
    day: Any = IntegerField()
    keep: Any = IntegerField()
    next_time: Any = DateTimeField(index=True)
    last_error: Any = TextField()


class ScheduledVmSnapshot(Base):
    vm_snapshot: Any = ForeignKeyField(VmSnapshot, unique=True, on_delete="CASCADE")
    schedule: Any = ForeignKeyField(VmSnapshotSchedule, on_delete="CASCADE")


NEW = (VmSnapshotSchedule, ScheduledVmSnapshot)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Vm, VmSnapshot, *NEW)):
        db.create_tables(NEW, safe=False)
