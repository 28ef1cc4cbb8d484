"""Adds which VMs may have been started on a fenced host since it was proved off."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import DateTimeField, ForeignKeyField, Model, TextField


class Host(Model):
    id: Any = TextField(primary_key=True)

    class Meta:
        legacy_table_names = False


class Vm(Model):
    id: Any = TextField(primary_key=True)

    class Meta:
        legacy_table_names = False


class LateStart(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )
    vm: Any = ForeignKeyField(Vm, on_delete="CASCADE")
    host: Any = ForeignKeyField(Host, on_delete="CASCADE")
    job_id: Any = TextField()

    class Meta:
        legacy_table_names = False
        indexes = ((("vm", "host", "job_id"), True),)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx([Host, Vm, LateStart]):
        db.create_tables([LateStart], safe=False)
