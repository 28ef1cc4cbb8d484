"""Adds what VMs may get while they run."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BigIntegerField, DateTimeField, ForeignKeyField, IntegerField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class ServiceOffering(Base):
    pass


class Vm(Base):
    pass


class OfferingMaximum(Base):
    service_offering: Any = ForeignKeyField(ServiceOffering, unique=True, on_delete="CASCADE")
    cpus: Any = IntegerField()
    memory_bytes: Any = BigIntegerField()


class VmMaximum(Base):
    vm: Any = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    cpus: Any = IntegerField()
    memory_bytes: Any = BigIntegerField()


NEW = (OfferingMaximum, VmMaximum)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((ServiceOffering, Vm, *NEW)):
        db.create_tables(NEW, safe=False)
