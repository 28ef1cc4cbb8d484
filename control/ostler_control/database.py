"""The database: SQLite for one control process, PostgreSQL for several.

A thread may touch the models only inside `session()` or `transaction()`; elsewhere a query raises, so that no thread
leaves a connection behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from playhouse.migrations import Runner
from playhouse.pool import PooledPostgresqlDatabase, PooledSqliteDatabase
from psycopg.conninfo import conninfo_to_dict

from ostler_control.models import db

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_S = 30
# On PostgreSQL only one replica migrates at a time; any number will do that nothing else uses.
_MIGRATION_LOCK = 0x05713E

# SQLite has one writer at a time and polls for its turn; threads of one process queue here instead.
_writer = threading.RLock()


def connect(url: str) -> None:
    """Binds the models to `sqlite:///PATH` or `postgresql://...` (any form that libpq understands).

    Opens nothing yet. Raises InvalidArgumentError for another kind of URL.
    """
    db.initialize(_open(url))


def disconnect() -> None:
    """Closes every connection of this process."""
    if db.obj is not None:
        db.close_all()


def _open(url: str) -> Any:
    if url.startswith("sqlite:///"):
        pragmas = {
            "journal_mode": "wal",
            "foreign_keys": 1,
            "synchronous": "full",  # a passphrase's row must outlive a power cut that its volume outlives
            "cache_size": -65536,  # KiB: the hosts' rows of a large fleet stay in memory
        }
        return PooledSqliteDatabase(
            url.removeprefix("sqlite:///"),
            pragmas=pragmas,
            timeout=_BUSY_TIMEOUT_S,
            lock_type="IMMEDIATE",  # a transaction that begins by reading must not fail when it comes to write
            max_connections=0,
            autoconnect=False,
            check_same_thread=False,  # the pool hands a connection from one thread to the next
        )
    if url.startswith(("postgresql://", "postgres://")):
        parameters: dict[str, Any] = conninfo_to_dict(url)
        return PooledPostgresqlDatabase(
            parameters.pop("dbname", "ostler"),
            max_connections=40,
            timeout=_BUSY_TIMEOUT_S,
            stale_timeout=600,
            autoconnect=False,
            prefer_psycopg3=True,
            **parameters,
        )
    raise InvalidArgumentError(
        "the database URL must begin with sqlite:/// or postgresql:// (set database_url)", "INVALID_DATABASE_URL"
    )


def is_sqlite() -> bool:
    """Whether the bound database is SQLite."""
    return isinstance(db.obj, PooledSqliteDatabase)


@contextlib.contextmanager
def session() -> Iterator[None]:
    """A connection for this thread; inside another session it does nothing."""
    if not db.is_closed():
        yield
        return
    db.connect()
    try:
        yield
    finally:
        db.close()


@contextlib.contextmanager
def transaction() -> Iterator[None]:
    """All or nothing, in a session of its own if need be; inside another transaction a savepoint.

    On SQLite it takes the write lock at once. Nothing in it may wait for another process or another thread.
    """
    with _writer if is_sqlite() else contextlib.nullcontext(), session(), db.atomic():
        yield


def migrate() -> list[str]:
    """Brings the schema up to this version; returns the names of the migrations that were applied.

    Several replicas may call it at once. Raises FailedPreconditionError when the database is newer than this program.
    """
    with session(), _migration_lock():
        runner = Runner(db.obj, str(_MIGRATIONS))
        unknown = [step.name for step in runner.status() if step.path is None]
        if unknown:
            raise FailedPreconditionError(
                f"the database was made by a newer Ostler (it knows {', '.join(unknown)}); upgrade this one",
                "DATABASE_TOO_NEW",
            )
        return list(runner.up())


@contextlib.contextmanager
def _migration_lock() -> Iterator[None]:
    if is_sqlite():
        # Not the database's own file: closing any descriptor of that would drop SQLite's locks.
        with Path(f"{db.database}.migrate").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    db.execute_sql("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
    try:
        yield
    finally:
        db.execute_sql("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))
