"""Adds high availability: fence devices, fenced hosts, priorities and restarts of VMs."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BooleanField, DateTimeField, ForeignKeyField, IntegerField, Model, TextField


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(default=_now, index=True)

    class Meta:
        legacy_table_names = False


class Host(Base):
    pass


class Vm(Base):
    pass


class ServiceOffering(Base):
    pass


class Passphrase(Base):
    pass


class FenceDevice(Base):
    host: Any = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    agent: Any = TextField()
    address: Any = TextField()
    username: Any = TextField()
    options: Any = TextField(default="{}")
    power_on: Any = BooleanField(default=False)
    passphrase: Any = ForeignKeyField(Passphrase, unique=True, on_delete="RESTRICT")
    test_time: Any = DateTimeField(null=True)
    test_power: Any = TextField(default="")
    test_error: Any = TextField(default="")


class HostFence(Base):
    host: Any = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    state: Any = TextField(default="fencing")
    state_time: Any = DateTimeField(default=_now)
    operation_id: Any = TextField()
    heard: Any = BooleanField(default=False)
    proof: Any = TextField(default="")
    attempts: Any = IntegerField(default=0)
    reason: Any = TextField(default="")


class VmPriority(Base):
    vm: Any = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    priority: Any = TextField()


class OfferingPriority(Base):
    service_offering: Any = ForeignKeyField(ServiceOffering, unique=True, on_delete="CASCADE")
    priority: Any = TextField()


class VmRestart(Base):
    vm: Any = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    lost_host_id: Any = TextField()
    priority: Any = TextField()
    operation_id: Any = TextField(default="")
    attempts: Any = IntegerField(default=0)
    next_time: Any = DateTimeField(default=_now)
    reason: Any = TextField(default="")


NEW = (FenceDevice, HostFence, VmPriority, OfferingPriority, VmRestart)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Host, Vm, ServiceOffering, Passphrase, *NEW)):
        db.create_tables(NEW, safe=False)
