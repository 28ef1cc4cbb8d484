"""Adds labels of VMs, volumes, hosts and templates, and descriptions of VMs."""

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


class Volume(Base):
    pass


class Host(Base):
    pass


class Template(Base):
    pass


class VmDescription(Base):
    vm: Any = ForeignKeyField(Vm, unique=True, on_delete="CASCADE")
    text: Any = TextField()


class VmLabel(Base):
    object: Any = ForeignKeyField(Vm, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class VolumeLabel(Base):
    object: Any = ForeignKeyField(Volume, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class HostLabel(Base):
    object: Any = ForeignKeyField(Host, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class TemplateLabel(Base):
    object: Any = ForeignKeyField(Template, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


NEW = (VmDescription, VmLabel, VolumeLabel, HostLabel, TemplateLabel)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Vm, Volume, Host, Template, *NEW)):
        db.create_tables(NEW, safe=False)
