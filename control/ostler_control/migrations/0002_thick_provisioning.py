"""Renames the provisioning "fat" to "thick"."""

from __future__ import annotations

from typing import Any

TABLES = ("disk_offering", "volume", "volume_file")


def up(migrator: object, db: Any) -> None:
    for table in TABLES:
        db.execute_sql(f"UPDATE {table} SET provisioning = 'thick' WHERE provisioning = 'fat'")  # noqa: S608 (constants)
