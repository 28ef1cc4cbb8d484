"""The database: SQLite for one control process, PostgreSQL for several.

A thread may touch the models only inside `session()` or `transaction()`; elsewhere a query raises, so that no thread
leaves a connection behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import structlog
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from peewee import Model, ModelSelect, OperationalError
from playhouse.migrations import Runner
from psycopg.conninfo import conninfo_to_dict

from ostler_control.durable import CommitSync
from ostler_control.models import db
from ostler_control.one_writer import OneWriter
from ostler_control.outage import outage
from ostler_control.postgresql import Postgresql
from ostler_control.sqlite import Sqlite

log = structlog.get_logger(__name__)

M = TypeVar("M", bound=Model)
# Any: libpq's, text or numbers.
Parameters = dict[str, Any]

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_S = 30
# How long emptying the write-ahead log waits for readers, and how often it is attempted.
_ERASURE_TIMEOUT_MS, _ERASURE_INTERVAL_S = 200, 2.0
# How many statements a connection to SQLite keeps compiled. The driver's own 128 are fewer than one create has: each
# would be gone again before it is used the next time.
_COMPILED_STATEMENTS = 1_000
# How long a transaction on PostgreSQL may be open without a statement; ours never wait for anything meanwhile.
IDLE_TRANSACTION_LIMIT_S = 20
# When the network goes dead without a word, or the server's machine is gone, TCP by itself notices that after hours.
# This way what waits for an answer meets an outage after some 15 seconds, and is repeated.
_LIVENESS = {
    "connect_timeout": "10",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "4",
    "tcp_user_timeout": "15000",
}
# The same for the server, whose connections are few: else those of a replica that was cut off stay for hours as well.
_SERVER_LIVENESS = {
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
# On PostgreSQL only one replica migrates at a time; any number will do that nothing else uses.
_MIGRATION_LOCK = 0x05713E

# Of the bound database, if it is SQLite.
_writer: OneWriter | None = None


def connect(url: str) -> None:
    """Binds the models to `sqlite:///PATH` or `postgresql://...` (any form that libpq understands).

    Opens nothing yet. Raises InvalidArgumentError for another kind of URL.
    """
    global _writer
    opened = _open(url)
    _writer = OneWriter(opened) if isinstance(opened, Sqlite) else None
    db.initialize(opened)
    _erasure.reset()


def disconnect() -> None:
    """Closes every connection of this process."""
    if _writer is not None:
        _writer.close()
    if db.obj is not None:
        db.close_all()


def _open(url: str) -> Sqlite | Postgresql:
    if url.startswith("sqlite:///"):
        pragmas = {
            "journal_mode": "wal",
            "foreign_keys": 1,
            "synchronous": "normal",  # the log is synced by `transaction`, for several commits at once
            "secure_delete": 1,  # a destroyed passphrase is overwritten, not only marked as deleted
            "cache_size": -65536,  # KiB: the hosts' rows of a large fleet stay in memory
        }
        return Sqlite(
            url.removeprefix("sqlite:///"),
            pragmas=pragmas,
            timeout=_BUSY_TIMEOUT_S,
            cached_statements=_COMPILED_STATEMENTS,
        )
    if url.startswith(("postgresql://", "postgres://")):
        parameters = postgresql_parameters(url)
        return Postgresql(parameters.pop("dbname", "ostler"), **parameters)
    raise InvalidArgumentError(
        "the database URL must begin with sqlite:/// or postgresql:// (set database_url)", "INVALID_DATABASE_URL"
    )


def postgresql_parameters(url: str) -> Parameters:
    """libpq's parameters for a connection; the URL's own win.

    A replica whose machine or process is frozen in a transaction must not keep its rows locked: PostgreSQL ends the
    transaction, and the replica meets an outage when it goes on.
    """
    own: Parameters = conninfo_to_dict(url)
    asked = {"idle_in_transaction_session_timeout": f"{IDLE_TRANSACTION_LIMIT_S}s", **_SERVER_LIVENESS}
    options = [*(f"-c {name}={value}" for name, value in asked.items()), own.get("options", "")]
    return {**_LIVENESS, **own, "options": " ".join(options).strip()}


def is_sqlite() -> bool:
    """Whether the bound database is SQLite."""
    return isinstance(db.obj, Sqlite)


def locked(query: ModelSelect[M]) -> ModelSelect[M]:
    """The query, with its rows locked until the caller's transaction ends. SQLite locks the whole database anyway."""
    return query if is_sqlite() else query.for_update()


def skip_locked(query: ModelSelect[M]) -> ModelSelect[M]:
    """Like `locked`, without the rows that another transaction has locked."""
    return query if is_sqlite() else query.for_update(skip_locked=True)


@contextlib.contextmanager
def session() -> Iterator[None]:
    """A connection for this thread; inside another session it does nothing."""
    database = db.obj  # what is asked of the proxy takes a call more
    if not database.is_closed():
        yield
        return
    database.connect()
    try:
        yield
    except Exception as error:
        if outage(error) is not None:
            database.close_idle()  # the pool's other connections are most likely broken too
        raise
    finally:
        database.close()


@contextlib.contextmanager
def transaction(*, lasting: bool = True) -> Iterator[None]:
    """All or nothing, in a session of its own if need be, on SQLite on the one connection that writes; inside another
    transaction a savepoint.

    lasting False: only for what is seen again after a restart, such as what a host can do. On SQLite a power cut may
    undo it, with all that was committed after it and does not last either, and nothing waits for the disk. The
    outermost transaction decides.

    On SQLite it takes the write lock at once. Nothing in it may wait for another process or another thread.
    What was committed outlives a power cut: a passphrase's row must, if its volume does.
    """
    if _writer is None:
        with session(), db.atomic():
            yield
        return
    database = db.obj
    if not database.is_closed() and database.in_transaction():
        with database.atomic():
            yield
        return
    with _writer.turn() as connection:
        before = connection.total_changes
        with database.transaction():
            yield
        changed = connection.total_changes != before
        if _erasure.is_due():
            _erasure.attempt()
    if changed and lasting:
        _commit_sync.wait(database.database)


@contextlib.contextmanager
def one_statement() -> Iterator[None]:
    """For a change by a single statement, which PostgreSQL makes a transaction by itself; else a `transaction`."""
    with transaction() if is_sqlite() else session():
        yield


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """The caller's transaction, without a savepoint, or one of its own: for what has changed nothing when it raises."""
    database = db.obj
    if not database.is_closed() and database.in_transaction():
        yield
        return
    with transaction():
        yield


def erase_deleted() -> None:
    """For a transaction that deletes secrets: once it has committed, SQLite's log holds them no longer either.

    Overwritten pages are first in the write-ahead log, beside the old ones, so the log is emptied: at once, but at most
    every other second. Else, and while a reader prevents it, a later transaction does it.

    PostgreSQL has no such means: its files keep deleted rows until VACUUM, and may keep them after it.
    """
    if is_sqlite():
        _erasure.request()


class _Erasure:
    """Whether the write-ahead log must be emptied, and the attempts to do so."""

    def __init__(self) -> None:
        self._requested = False
        self._last_attempt_s = -math.inf

    def reset(self) -> None:
        """For another database."""
        self._requested, self._last_attempt_s = False, -math.inf

    def request(self) -> None:
        self._requested = True

    def is_due(self) -> bool:
        return self._requested and is_sqlite() and time.monotonic() - self._last_attempt_s >= _ERASURE_INTERVAL_S

    def attempt(self) -> None:
        """Outside of transactions, with this process's write lock."""
        self._last_attempt_s = time.monotonic()
        db.execute_sql(f"PRAGMA busy_timeout = {_ERASURE_TIMEOUT_MS}")
        try:
            busy, _, _ = db.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._requested = bool(busy)
        except OperationalError as error:
            log.warning("the write-ahead log could not be emptied yet", why=str(error))
        finally:
            db.execute_sql(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000}")


_erasure = _Erasure()
_commit_sync = CommitSync()


def known_migrations() -> list[str]:
    """The names of all migrations of this program."""
    return sorted(path.stem for path in _MIGRATIONS.glob("[0-9]*.py"))


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
