"""A journal in SQLite writes ahead, and its commits share syncs of the disk, as those of the database do.

A rollback journal takes several syncs for each commit, and all others wait for them. Here a connection that has
committed is given back only once its change outlives a power cut: so a step counts as done only then.
"""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict

import structlog
from peewee import OperationalError
from sqlalchemy import Engine, Pool, event
from sqlalchemy.pool import ConnectionPoolEntry

from ostler_control.durable import CommitSync

log = structlog.get_logger(__name__)

_RETRY_S = 1.0

_syncs: defaultdict[str, CommitSync] = defaultdict(CommitSync)


@event.listens_for(Engine, "connect")
def _write_ahead(connection: object, record: ConnectionPoolEntry) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        ((_, _, file),) = connection.execute("PRAGMA database_list").fetchall()
        record.info["file"] = file
        record.info["changes"] = connection.total_changes


@event.listens_for(Pool, "checkin")
def _sync_changes(connection: object, record: ConnectionPoolEntry) -> None:
    """Waits while the disk fails, as operations wait for a journal that cannot be written.

    What the kernel has dropped by then may be gone after a power cut. The step is done again then, as every one can be.
    """
    if not isinstance(connection, sqlite3.Connection) or not record.info.get("file"):
        return
    if connection.total_changes == record.info["changes"]:
        return
    record.info["changes"] = connection.total_changes
    file: str = record.info["file"]
    while True:
        try:
            _syncs[file].wait(file)
            return
        except OperationalError as error:
            log.error("the journal cannot be synced; waiting for it", reason=str(error))
            time.sleep(_RETRY_S)
