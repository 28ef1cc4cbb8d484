"""Adds labels of clusters, networks, pools and snapshots."""

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


class Network(Base):
    pass


class Pool(Base):
    pass


class Snapshot(Base):
    pass


class ClusterLabel(Base):
    object: Any = ForeignKeyField(Cluster, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class NetworkLabel(Base):
    object: Any = ForeignKeyField(Network, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class PoolLabel(Base):
    object: Any = ForeignKeyField(Pool, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


class SnapshotLabel(Base):
    object: Any = ForeignKeyField(Snapshot, on_delete="CASCADE")
    key: Any = TextField()
    value: Any = TextField()

    class Meta:
        indexes = ((("object", "key"), True), (("key", "value"), False))


NEW = (ClusterLabel, NetworkLabel, PoolLabel, SnapshotLabel)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((Cluster, Network, Pool, Snapshot, *NEW)):
        db.create_tables(NEW, safe=False)
