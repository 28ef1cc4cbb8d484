"""Adds details for drivers to templates and service offerings."""

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


class Template(Base):
    pass


class ServiceOffering(Base):
    pass


class TemplateDetail(Base):
    template: Any = ForeignKeyField(Template, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("template", "key"), True),)


class OfferingDetail(Base):
    service_offering: Any = ForeignKeyField(ServiceOffering, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("service_offering", "key"), True),)


NEW = (TemplateDetail, OfferingDetail)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Template, ServiceOffering, *NEW)):
        db.create_tables(NEW, safe=False)
