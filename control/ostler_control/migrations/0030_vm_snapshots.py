"""Adds snapshots of whole VMs: each a group of snapshots of its disks."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BooleanField, DateTimeField, ForeignKeyField, IntegerField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class Account(Base):
    pass


class Snapshot(Base):
    pass


class VmSnapshot(Base):
    name: Any = TextField()
    account: Any = ForeignKeyField(Account, on_delete="RESTRICT")
    vm_id: Any = TextField(index=True)
    vm_name: Any = TextField()
    state: Any = TextField(index=True)
    state_reason: Any = TextField()
    online: Any = BooleanField()
    operation_id: Any = TextField()

    class Meta:
        indexes = ((("account", "name"), True),)


class VmSnapshotDisk(Base):
    vm_snapshot: Any = ForeignKeyField(VmSnapshot, on_delete="CASCADE")
    snapshot: Any = ForeignKeyField(Snapshot, null=True, unique=True, on_delete="SET NULL")
    slot: Any = IntegerField()
    root: Any = BooleanField()
    volume_id: Any = TextField()
    volume_name: Any = TextField()

    class Meta:
        indexes = ((("vm_snapshot", "slot"), True),)


NEW = (VmSnapshot, VmSnapshotDisk)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Account, Snapshot, *NEW)):
        db.create_tables(NEW, safe=False)
