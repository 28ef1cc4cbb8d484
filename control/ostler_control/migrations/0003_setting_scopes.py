"""Settings get scopes: what had a cluster's id now has the scope "cluster", the rest "global"."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from peewee import DateTimeField, Model, TextField


class SettingValue(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )
    name: Any = TextField()
    scope: Any = TextField()
    scope_id: Any = TextField(default="")
    value: Any = TextField()

    class Meta:
        legacy_table_names = False
        indexes = ((("name", "scope", "scope_id"), True),)


def up(migrator: object, db: Any) -> None:
    old = db.execute_sql("SELECT id, create_time, name, cluster_id, value FROM setting_value").fetchall()
    db.execute_sql("DROP TABLE setting_value")
    with db.bind_ctx([SettingValue]):
        db.create_tables([SettingValue], safe=False)
        for row_id, create_time, name, cluster_id, value in old:
            SettingValue.insert(
                id=row_id,
                create_time=create_time,
                name=name,
                scope="cluster" if cluster_id else "global",
                scope_id=cluster_id,
                value=value,
            ).execute()
