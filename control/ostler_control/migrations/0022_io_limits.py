"""Adds I/O limits of disk offerings and of volumes."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BigIntegerField, BooleanField, DateTimeField, ForeignKeyField, IntegerField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


class DiskOffering(Base):
    pass


class Volume(Base):
    pass


class DiskOfferingIo(Base):
    disk_offering: Any = ForeignKeyField(DiskOffering, unique=True, on_delete="CASCADE")
    iops: Any = BigIntegerField(default=0)
    bytes_per_s: Any = BigIntegerField(default=0)
    burst_iops: Any = BigIntegerField(default=0)
    burst_bytes_per_s: Any = BigIntegerField(default=0)
    burst_s: Any = IntegerField(default=0)
    ignore_discard: Any = BooleanField(default=False)


class VolumeLimits(Base):
    volume: Any = ForeignKeyField(Volume, unique=True, on_delete="CASCADE")
    iops: Any = BigIntegerField(default=0)
    bytes_per_s: Any = BigIntegerField(default=0)
    burst_iops: Any = BigIntegerField(default=0)
    burst_bytes_per_s: Any = BigIntegerField(default=0)
    burst_s: Any = IntegerField(default=0)


NEW = (DiskOfferingIo, VolumeLimits)


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    with db.bind_ctx((DiskOffering, Volume, *NEW)):
        db.create_tables(NEW, safe=False)
