"""A journal in SQLite writes ahead: one sync for each commit, where a rollback journal takes several.

Readers do not wait for writers then either. Every commit is synced before the step counts as done.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy import Engine, event


@event.listens_for(Engine, "connect")
def _write_ahead(connection: object, record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
