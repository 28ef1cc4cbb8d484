"""What a failed query says of the database itself: away for now, or full. Every other failure is a bug."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog
from ostler_common.errors import OstlerError, ResourceExhaustedError, UnavailableError
from peewee import InterfaceError, InternalError, OperationalError
from playhouse.pool import MaxConnectionsExceeded

log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_AFTER_S = 2
# What an outage may look like; so do some bugs.
DATABASE_ERRORS = (OperationalError, InterfaceError, InternalError, MaxConnectionsExceeded)
_DISK_FULL = "53100"  # PostgreSQL's SQLSTATE disk_full
_ENDS = ("FATAL", "PANIC")  # severities after which the connection is gone
# The SQLSTATE of a transaction that stood still too long, see `database.postgresql_parameters`.
_TRANSACTION_ENDED = "25P03"
# SQLite tells most of its failures apart by text alone.
_SQLITE_FULL = ("database or disk is full",)
# What the text calls a "disk i/o error": opening the database needs room for the index of its write-ahead log.
_SQLITE_NO_ROOM = (sqlite3.SQLITE_IOERR_SHMSIZE,)
_SQLITE_AWAY = ("database is locked", "database table is locked", "disk i/o error", "unable to open database file")


def outage(error: BaseException) -> OstlerError | None:
    """The error for callers when the database could not do its work: UnavailableError DATABASE_UNAVAILABLE, which a
    later attempt may not meet, or ResourceExhaustedError DATABASE_FULL. None when the failure is something else."""
    # A failed rollback hides what made it necessary: SQLite ends the transaction by itself when its disk is full.
    cause: BaseException | None = error if isinstance(error, DATABASE_ERRORS) else None
    while cause is not None:
        if (found := _outage(cause)) is not None:
            return found
        cause = cause.__context__
    return None


def _outage(error: BaseException) -> OstlerError | None:
    if isinstance(error, MaxConnectionsExceeded):
        return _unavailable("all its connections are in use")
    if not isinstance(error, DATABASE_ERRORS):
        return None
    driver = getattr(error, "orig", None)
    text = str(error).lower()
    if isinstance(error, InternalError):
        ended = getattr(driver, "sqlstate", None) == _TRANSACTION_ENDED
        return _unavailable("it ended a transaction that stood still") if ended else None
    if type(driver).__module__.startswith("psycopg"):
        if getattr(driver, "sqlstate", None) == _DISK_FULL and not _ended(driver):
            return _full()
        return _unavailable("it does not answer")
    if any(part in text for part in _SQLITE_FULL) or getattr(driver, "sqlite_errorcode", None) in _SQLITE_NO_ROOM:
        return _full()
    if any(part in text for part in _SQLITE_AWAY):
        return _unavailable("its file is locked or cannot be read")
    return None


def _ended(driver: object) -> bool:
    """Whether PostgreSQL ended with this error, as it does when it cannot write its log. The transaction may have been
    committed then, which DATABASE_FULL denies."""
    diagnosis = getattr(driver, "diag", None)
    return getattr(diagnosis, "severity_nonlocalized", None) in _ENDS


def wait_out(call: Callable[[], T], pause: Callable[[float], None]) -> T:
    """Repeats a call while the database is away or full, for as long as that lasts: nothing can be recorded meanwhile.

    pause: sleeps so many seconds; raises when the wait is to end.
    """
    waited_s = 0.0
    while True:
        try:
            return call()
        except Exception as error:
            found = outage(error)
            if found is None:
                raise
            if waited_s == 0:
                log.warning("the database cannot be used; waiting for it", reason=found.reason)
            waited_s += 1.0
            pause(1.0)


def log_failure(event: str, error: Exception, **names: str) -> None:
    """In the handler of work that is tried again: logs a bug with its traceback, an outage in one line."""
    found = outage(error)
    if found is None:
        log.exception(event, **names)
    else:
        log.warning(event, reason=found.reason, **names)


@contextlib.contextmanager
def bug_logged(event: str, **names: str) -> Iterator[None]:
    """Around the work for one of many, which is tried again: a bug with it is logged with its traceback, and does not
    hold up the others; an outage is raised."""
    try:
        yield
    except Exception as error:
        if outage(error) is not None:
            raise
        log.exception(event, **names)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turns a failure of the database inside into the error that `outage` gives."""
    try:
        yield
    except Exception as error:
        if (found := outage(error)) is not None:
            raise found from error
        raise


def _unavailable(why: str) -> UnavailableError:
    return UnavailableError(
        f"the control plane's database cannot be used now: {why}; try again in {RETRY_AFTER_S} seconds",
        "DATABASE_UNAVAILABLE",
        {"retry_after_s": str(RETRY_AFTER_S)},
    )


def _full() -> ResourceExhaustedError:
    return ResourceExhaustedError(
        "the disk of the control plane's database is full; nothing was changed: free some space, then repeat the call",
        "DATABASE_FULL",
    )
