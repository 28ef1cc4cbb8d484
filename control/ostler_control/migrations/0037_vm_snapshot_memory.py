"""Adds the memory that snapshots of VMs have."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BigIntegerField, DateTimeField, ForeignKeyField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class VmSnapshot(Base):
    pass


class Pool(Base):
    pass


class Passphrase(Base):
    pass


class VmSnapshotMemory(Base):
    vm_snapshot: Any = ForeignKeyField(VmSnapshot, unique=True, on_delete="CASCADE")
    pool: Any = ForeignKeyField(Pool, on_delete="RESTRICT")
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    format: Any = TextField(default="qcow2")
    encrypt_format: Any = TextField(default="")
    size_bytes: Any = BigIntegerField()
    used_bytes: Any = BigIntegerField(default=0)
    definition: Any = TextField()
    cpus: Any = TextField(default="")


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((VmSnapshot, Pool, Passphrase, VmSnapshotMemory)):
        db.create_tables((VmSnapshotMemory,), safe=False)
