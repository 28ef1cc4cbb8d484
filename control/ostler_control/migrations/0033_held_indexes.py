"""Adds indexes by which an operation finds the objects that it holds.

Without them the end of each operation read every VM and every volume.
"""

from __future__ import annotations

from typing import Any

TABLES = ("vm", "volume", "snapshot", "vm_snapshot", "backup")


# Any: Peewee's database, whichever it is.
def up(migrator: object, db: Any) -> None:
    for table in TABLES:
        db.execute_sql(f'CREATE INDEX "{table}_operation_id" ON "{table}" ("operation_id")')
