"""Which processes may run on a state directory and on a database.

One process runs on a state directory. On PostgreSQL one process runs under a replica id, wherever it is, and none while
the database is being filled by `ostler-control migrate-database`. PostgreSQL gives these locks up with the connection.
"""

from __future__ import annotations

import fcntl
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
import structlog
from ostler_common.errors import FailedPreconditionError, UnavailableError

from ostler_control.database import postgresql_parameters
from ostler_control.state_dir import StateDir

log = structlog.get_logger(__name__)

Connection = psycopg.Connection[tuple[object, ...]]

# Keys of PostgreSQL's advisory locks: any numbers that nothing else uses.
_RUNNING, _REPLICA = 0x05713F, 0x057140
# A process that died with its machine holds its lock until PostgreSQL has probed its connection in vain, about 11 s.
_PROBES = {"tcp_keepalives_idle": 5, "tcp_keepalives_interval": 2, "tcp_keepalives_count": 3}
_ACQUIRE_TIMEOUT_S = 20
# After an outage the lock may belong to this process's own lost connection for a while.
_REACQUIRE_LIMIT_S = 60.0


@contextmanager
def alone(state: StateDir) -> Iterator[None]:
    """Holds the state directory. Raises FailedPreconditionError RUNS_ALREADY."""
    with (state.path / ".run.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPreconditionError(
                f"a control plane runs on {state.path}: stop it first (systemctl stop ostler-control); each replica "
                "needs a state directory of its own",
                "RUNS_ALREADY",
            ) from None
        yield


@contextmanager
def filling(url: str) -> Iterator[Connection]:
    """Keeps control planes away from a PostgreSQL database; gives the connection that does, without a transaction.

    Raises FailedPreconditionError RUNS_ALREADY, UnavailableError DATABASE_UNAVAILABLE.
    """
    with _connect(url, "ostler-control migrate-database") as connection:
        if not _answer(connection, "SELECT pg_try_advisory_lock(%s)", _RUNNING):
            raise FailedPreconditionError(
                "a control plane runs on the PostgreSQL database: stop it first (systemctl stop ostler-control)",
                "RUNS_ALREADY",
            )
        yield connection


class ReplicaLock:
    """This process's claim of its replica id on PostgreSQL."""

    def __init__(self, url: str, replica: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Claims it. Raises FailedPreconditionError REPLICA_RUNS_ALREADY or DATABASE_BEING_FILLED,
        UnavailableError DATABASE_UNAVAILABLE."""
        self._url, self._replica, self._clock = url, replica, clock
        self._refused_since_s: float | None = None
        connection = _connect(url, f"ostler-control {replica}")
        try:
            self._acquire(connection)
        except BaseException:
            connection.close()
            raise
        self._connection: Connection | None = connection

    def close(self) -> None:
        """Gives the claim up."""
        if self._connection is not None:
            self._connection.close()

    def check(self) -> None:
        """Claims the id again if the connection was lost. Call it regularly.

        Raises FailedPreconditionError REPLICA_RUNS_ALREADY when another process has had it for a minute.
        """
        if self._connection is not None and _is_alive(self._connection):
            return
        self._connection = None
        with suppress(UnavailableError):  # until PostgreSQL is back
            connection = _connect(self._url, f"ostler-control {self._replica}")
            if self._try_acquire(connection):
                self._connection, self._refused_since_s = connection, None
                log.info("the replica id was claimed again after the connection was lost", replica=self._replica)
                return
            connection.close()
            now_s = self._clock()
            self._refused_since_s = now_s if self._refused_since_s is None else self._refused_since_s
            if now_s - self._refused_since_s >= _REACQUIRE_LIMIT_S:
                raise self._taken()

    def _acquire(self, connection: Connection) -> None:
        if not _answer(connection, "SELECT pg_try_advisory_lock_shared(%s)", _RUNNING):
            raise FailedPreconditionError(
                "`ostler-control migrate-database` is filling the database: wait for its end", "DATABASE_BEING_FILLED"
            )
        connection.execute(f"SET lock_timeout = '{_ACQUIRE_TIMEOUT_S}s'")
        try:
            connection.execute("SELECT pg_advisory_lock(%s, %s)", (_REPLICA, _key(self._replica)))
        except psycopg.errors.LockNotAvailable:
            raise self._taken() from None

    def _try_acquire(self, connection: Connection) -> bool:
        try:
            return _answer(connection, "SELECT pg_try_advisory_lock_shared(%s)", _RUNNING) and _answer(
                connection, "SELECT pg_try_advisory_lock(%s, %s)", _REPLICA, _key(self._replica)
            )
        except psycopg.OperationalError:
            return False

    def _taken(self) -> FailedPreconditionError:
        return FailedPreconditionError(
            f"another process runs as replica {self._replica} on this database: a state directory was copied with its "
            "file replica_id; stop one of the two, delete that file in its state directory, then start it",
            "REPLICA_RUNS_ALREADY",
            {"replica": self._replica},
        )


def _connect(url: str, name: str) -> Connection:
    try:
        own = {"autocommit": True, "connect_timeout": 5, "application_name": name}
        connection = psycopg.connect(**{**postgresql_parameters(url), **own})
        for parameter, value in _PROBES.items():
            connection.execute(f"SET {parameter} = {value}".encode())
    except psycopg.OperationalError as error:
        raise UnavailableError(
            f"PostgreSQL does not answer: {str(error).splitlines()[0]}", "DATABASE_UNAVAILABLE"
        ) from error
    return connection


def _answer(connection: Connection, statement: str, *parameters: int) -> bool:
    row = connection.execute(statement.encode(), parameters).fetchone()
    return row is not None and bool(row[0])


def _is_alive(connection: Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        connection.close()
        return False
    return True


def _key(replica: str) -> int:
    """A signed 32-bit number."""
    return zlib.crc32(replica.encode()) - (1 << 31)
