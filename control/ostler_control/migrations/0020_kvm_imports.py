"""Adds import sources that are KVM hosts, and passphrases of the disks that are imported from them."""

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


class Passphrase(Base):
    pass


class ImportSource(Base):
    pass


class VmImport(Base):
    pass


class KvmSource(Base):
    source: Any = ForeignKeyField(ImportSource, unique=True, on_delete="CASCADE")
    known_hosts: Any = TextField()


class ImportDiskPassphrase(Base):
    vm_import: Any = ForeignKeyField(VmImport, on_delete="CASCADE")
    disk_key: Any = IntegerField()
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")

    class Meta:
        indexes = ((("vm_import", "disk_key"), True),)


NEW = (KvmSource, ImportDiskPassphrase)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Passphrase, ImportSource, VmImport, *NEW)):
        db.create_tables(NEW, safe=False)
