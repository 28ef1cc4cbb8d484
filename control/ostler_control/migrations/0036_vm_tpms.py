"""Adds the emulated TPMs of VMs."""

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


class Vm(Base):
    pass


class Passphrase(Base):
    pass


class VmTpm(Base):
    vm: Any = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Vm, Passphrase, VmTpm)):
        db.create_tables((VmTpm,), safe=False)
