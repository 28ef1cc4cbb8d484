"""Adds ISO images and the CD-ROM drives that they are in."""

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


class Vm(Base):
    pass


class Iso(Base):
    name: Any = TextField(unique=True)
    file_size_bytes: Any = BigIntegerField()
    sha256: Any = TextField()


class VmIso(Base):
    vm: Any = ForeignKeyField(Vm, on_delete="CASCADE")
    iso: Any = ForeignKeyField(Iso, on_delete="RESTRICT")
    drive: Any = IntegerField()
    boot_first: Any = BooleanField()

    class Meta:
        indexes = ((("vm", "drive"), True),)


NEW = (Iso, VmIso)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Vm, *NEW)):
        db.create_tables(NEW, safe=False)
