"""Adds details and extra configuration of VMs, and extra configuration of service offerings."""

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


class ServiceOffering(Base):
    pass


class VmDetail(Base):
    vm: Any = ForeignKeyField(Vm, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("vm", "key"), True),)


class VmExtraConfig(Base):
    vm: Any = ForeignKeyField(Vm, on_delete="CASCADE")
    name: Any = TextField()
    xml: Any = TextField()
    override_by: Any = TextField(default="")

    class Meta:
        indexes = ((("vm", "name"), True),)


class OfferingExtraConfig(Base):
    service_offering: Any = ForeignKeyField(ServiceOffering, on_delete="CASCADE")
    name: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("service_offering", "name"), True),)


NEW = (VmDetail, VmExtraConfig, OfferingExtraConfig)


def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Vm, ServiceOffering, *NEW)):
        db.create_tables(NEW, safe=False)
