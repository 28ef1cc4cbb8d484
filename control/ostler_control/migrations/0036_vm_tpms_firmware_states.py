"""Adds copies of what VMs' firmware keeps on their hosts."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BlobField, BooleanField, DateTimeField, ForeignKeyField, Model, TextField


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


class Passphrase(Base):
    pass


class VmFirmwareState(Base):
    vm: Any = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    state_id: Any = TextField()
    sealed: Any = BlobField()
    sha256: Any = TextField()
    overwrite: Any = BooleanField(default=False)
    copy_time: Any = DateTimeField(default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None))


class VmSnapshotFirmwareState(Base):
    vm_snapshot: Any = ForeignKeyField(VmSnapshot, unique=True, on_delete="CASCADE")
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    sealed: Any = BlobField()


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Vm, VmSnapshot, Passphrase, VmFirmwareState, VmSnapshotFirmwareState)):
        db.create_tables((VmFirmwareState, VmSnapshotFirmwareState), safe=False)
