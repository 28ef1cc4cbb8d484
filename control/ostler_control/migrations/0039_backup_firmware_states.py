"""Adds what the firmware of VMs kept when they were backed up, and the keys of their TPMs."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BlobField, DateTimeField, ForeignKeyField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class Backup(Base):
    pass


class Passphrase(Base):
    pass


class BackupFirmwareState(Base):
    backup: Any = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    passphrase: Any = ForeignKeyField(Passphrase, null=True, unique=True, on_delete="RESTRICT")
    sealed: Any = BlobField(default=b"")
    copy_time: Any = DateTimeField(null=True)
    problem: Any = TextField(default="")


class BackupTpm(Base):
    backup: Any = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Backup, Passphrase, BackupFirmwareState, BackupTpm)):
        db.create_tables((BackupFirmwareState, BackupTpm), safe=False)
