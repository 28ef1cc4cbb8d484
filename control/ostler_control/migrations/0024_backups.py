"""Adds backups of VMs and the pools that hold them."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BigIntegerField, BooleanField, DateTimeField, ForeignKeyField, IntegerField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class Account(Base):
    pass


class Passphrase(Base):
    pass


class Pool(Base):
    pass


class BackupStore(Base):
    pool: Any = ForeignKeyField(Pool, unique=True, on_delete="CASCADE")


class Backup(Base):
    name: Any = TextField()
    account: Any = ForeignKeyField(Account, on_delete="RESTRICT")
    vm_id: Any = TextField(index=True)
    vm_name: Any = TextField()
    pool: Any = ForeignKeyField(Pool, on_delete="RESTRICT")
    state: Any = TextField(index=True)
    state_reason: Any = TextField()
    online: Any = BooleanField()
    definition: Any = TextField()
    verify_time: Any = DateTimeField(null=True)
    verify_error: Any = TextField()
    operation_id: Any = TextField()

    class Meta:
        indexes = ((("account", "name"), True),)


class BackupDisk(Base):
    backup: Any = ForeignKeyField(Backup, on_delete="CASCADE")
    slot: Any = IntegerField()
    root: Any = BooleanField()
    volume_id: Any = TextField(index=True)
    volume_name: Any = TextField()
    pool: Any = ForeignKeyField(Pool, on_delete="RESTRICT")
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    size_bytes: Any = BigIntegerField()
    format: Any = TextField()
    encrypt_format: Any = TextField()
    encrypted: Any = BooleanField()
    volume_pool_id: Any = TextField()
    volume_format: Any = TextField()
    provisioning: Any = TextField()
    disk_offering_id: Any = TextField()
    sha256: Any = TextField()
    file_size_bytes: Any = BigIntegerField()

    class Meta:
        indexes = ((("backup", "slot"), True),)


NEW = (BackupStore, Backup, BackupDisk)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Account, Passphrase, Pool, *NEW)):
        db.create_tables(NEW, safe=False)
