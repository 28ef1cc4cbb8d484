"""Adds what CPU VMs get on each host, and the CPUs that VMs of unlike hosts have in common."""

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


class Host(Base):
    pass


class Vm(Base):
    pass


class HostCpu(Base):
    host: Any = ForeignKeyField(Host, unique=True, on_delete="CASCADE")
    digest: Any = TextField()
    cpu: Any = TextField()


class VmCpu(Base):
    vm: Any = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    digests: Any = TextField()


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Host, Vm, HostCpu, VmCpu)):
        db.create_tables((HostCpu, VmCpu), safe=False)
