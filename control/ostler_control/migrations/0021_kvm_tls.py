"""Adds KVM hosts as import sources whose libvirt is reached through TLS."""

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


class ImportSource(Base):
    pass


class KvmTlsSource(Base):
    source: Any = ForeignKeyField(ImportSource, unique=True, on_delete="CASCADE")
    client_certificate: Any = TextField()


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((ImportSource, KvmTlsSource)):
        db.create_tables((KvmTlsSource,), safe=False)
