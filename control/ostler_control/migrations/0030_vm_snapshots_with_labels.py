"""Adds labels of VM snapshots."""

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


class VmSnapshot(Base):
    pass


class VmSnapshotLabel(Base):
    object: Any = ForeignKeyField(VmSnapshot, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((VmSnapshot, VmSnapshotLabel)):
        db.create_tables((VmSnapshotLabel,), safe=False)
