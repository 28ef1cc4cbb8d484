"""A journal in SQLite whose disk is full, or fails: operations wait for it, as they wait for the database itself.

DBOS repeats a query of the journal that fails with "database is locked", for as long as that lasts, and takes every
other failure for the end of the workflow. So inside of an operation a full disk is told to DBOS as a lock. It reads
texts alone, see `dbos._utils.retriable_sqlite_exception`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator

import structlog
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import OperationalError

from ostler_control.outage import is_sqlite_outage

log = structlog.get_logger(__name__)

_thread = threading.local()


@contextlib.contextmanager
def waited_for() -> Iterator[None]:
    """This thread waits for the journal inside. Callers of the API are told at once instead."""
    _thread.waits = True
    try:
        yield
    finally:
        _thread.waits = False


@event.listens_for(Engine, "handle_error")
def _tell_as_lock(context: ExceptionContext) -> BaseException | None:
    error = context.original_exception
    is_outage = isinstance(error, sqlite3.OperationalError) and is_sqlite_outage(error)
    if not (is_outage and getattr(_thread, "waits", False)):
        return None
    log.warning("the journal cannot be written; waiting for it", reason=str(error))
    return OperationalError(context.statement, None, sqlite3.OperationalError(f"database is locked: {error}"))
