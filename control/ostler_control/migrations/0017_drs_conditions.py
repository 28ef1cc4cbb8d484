"""Adds the conditions of clusters and hosts that DRS acts on once they have lasted."""

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


class Cluster(Base):
    pass


class DrsCondition(Base):
    cluster: Any = ForeignKeyField(Cluster, on_delete="CASCADE")
    kind: Any = TextField()
    host_id: Any = TextField(default="")
    start_time: Any = DateTimeField()
    seen_time: Any = DateTimeField()

    class Meta:
        indexes = ((("cluster", "kind", "host_id"), True),)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Cluster, DrsCondition)):
        db.create_tables((DrsCondition,), safe=False)
