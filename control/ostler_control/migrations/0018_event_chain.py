"""Events get a place in a hash chain. Those from before get theirs after the first start."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import BigIntegerField, DateTimeField, Model, SqliteDatabase, TextField


class EventChain(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )
    sequence: Any = BigIntegerField()
    digest: Any = TextField()
    anchor_sequence: Any = BigIntegerField(default=0)
    anchor_digest: Any = TextField(default="")
    anchor_time: Any = DateTimeField(null=True)

    class Meta:
        legacy_table_names = False


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    kind = "INTEGER" if isinstance(db, SqliteDatabase) else "BIGINT"
    db.execute_sql(f'ALTER TABLE "event" ADD COLUMN "sequence" {kind}')
    db.execute_sql('ALTER TABLE "event" ADD COLUMN "digest" TEXT')
    db.execute_sql('CREATE INDEX "event_sequence_create_time" ON "event" ("sequence", "create_time")')
    with db.bind_ctx([EventChain]):
        db.create_tables([EventChain], safe=False)
