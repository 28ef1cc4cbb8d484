"""Join tokens may name the host that they are for, and its address."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import DateTimeField, Model, TextField


class JoinToken(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )
    digest: Any = TextField(unique=True)
    cluster_id: Any = TextField()
    host_id: Any = TextField(default="")
    host_name: Any = TextField(default="")
    address: Any = TextField(default="")
    expire_time: Any = DateTimeField()
    use_time: Any = DateTimeField(null=True)

    class Meta:
        legacy_table_names = False


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    columns = "id, create_time, digest, cluster_id, host_id, expire_time, use_time"
    old = db.execute_sql(f"SELECT {columns} FROM join_token").fetchall()  # noqa: S608 (a constant)
    db.execute_sql("DROP TABLE join_token")
    with db.bind_ctx([JoinToken]):
        db.create_tables([JoinToken], safe=False)
        for row in old:
            JoinToken.insert(dict(zip(columns.split(", "), row, strict=True))).execute()
