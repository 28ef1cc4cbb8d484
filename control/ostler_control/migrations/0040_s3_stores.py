"""Adds backup stores in S3: the bucket of a store, and the host that still may have files of a backup for it."""

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


class Passphrase(Base):
    pass


class Pool(Base):
    pass


class Backup(Base):
    pass


class StoreBucket(Base):
    pool: Any = ForeignKeyField(Pool, unique=True, on_delete="CASCADE")
    endpoint: Any = TextField()
    bucket: Any = TextField()
    prefix: Any = TextField(default="")
    region: Any = TextField()
    access_key: Any = TextField()
    ca_pem: Any = TextField(default="")
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")


class BackupSpool(Base):
    backup: Any = ForeignKeyField(Backup, unique=True, on_delete="CASCADE")
    host_id: Any = TextField(index=True)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Passphrase, Pool, Backup, StoreBucket, BackupSpool)):
        db.create_tables((StoreBucket, BackupSpool), safe=False)
