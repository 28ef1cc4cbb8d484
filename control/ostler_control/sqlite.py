"""SQLite as the database, and the connections on which the threads of this process read in turn. `one_writer` has the
one that writes.

Of the time of a short statement peewee's way to the driver takes a third, and so does its pool of a short session.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Collection
from sqlite3 import Connection, Cursor, ProgrammingError

from peewee import (  # type: ignore[attr-defined]  # the stubs leave the last one out
    InterfaceError,
    OperationalError,
    SqliteDatabase,
    __exception_wrapper__,
)


class Sqlite(SqliteDatabase):
    """A database, with the connections that no thread has. Thread-safe."""

    def __init__(self, path: str, **options: object) -> None:
        """options: the driver's and peewee's."""
        self._idle: deque[Connection] = deque()
        self._open = set[Connection]()
        super().__init__(path, autoconnect=False, check_same_thread=False, **options)  # type: ignore[arg-type]

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Gives this thread a connection, of the idle ones the one that was used last."""
        state = vars(self)["_state"]
        if not state.closed:
            if reuse_if_open:
                return False
            raise OperationalError("Connection already opened.")
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.open()
        state.set_connection(connection)
        return True

    def open(self) -> Connection:
        """A further connection."""
        with __exception_wrapper__:
            connection: Connection = self._connect()  # type: ignore[attr-defined]
        self._open.add(connection)
        return connection

    def close(self) -> bool:
        """Takes this thread's connection back; whether it had one."""
        state = vars(self)["_state"]
        if state.closed:
            return False
        if state.transactions:
            raise OperationalError("Attempting to close database while transaction is open.")
        connection: Connection = state.conn
        state.reset()
        if is_spoilt(connection):
            self.drop(connection)
        else:
            self._idle.append(connection)
        return True

    def drop(self, connection: Connection) -> None:
        """Closes a connection for good."""
        self._open.discard(connection)
        connection.close()

    def close_idle(self) -> None:
        """Closes the connections that no thread has."""
        while self._idle:
            try:
                self.drop(self._idle.pop())
            except IndexError:
                return

    def close_all(self) -> None:
        """Closes every connection: a thread that has one meets an outage."""
        self.close()
        self.close_idle()
        for connection in list(self._open):
            self.drop(connection)

    def execute_sql(self, sql: str, params: Collection[object] | None = None) -> Cursor:
        state = vars(self)["_state"]
        if state.closed:
            raise InterfaceError("Error, database connection not opened.")
        try:
            cursor: Cursor = state.conn.execute(sql, params or ())
        except sqlite3.Error:
            with __exception_wrapper__:
                raise
        return cursor

    # What frames a transaction is no statement of its caller: who replaces `execute_sql` to see those sees no other.

    def begin(self, lock_type: str | None = None) -> None:
        # A transaction that begins by reading must not fail when it comes to write.
        Sqlite.execute_sql(self, "BEGIN IMMEDIATE")

    def commit(self) -> None:
        Sqlite.execute_sql(self, "COMMIT")

    def rollback(self) -> None:
        Sqlite.execute_sql(self, "ROLLBACK")


def is_spoilt(connection: Connection) -> bool:
    """Whether nobody can begin a transaction on it: somebody has closed it, or has left one open."""
    try:
        return connection.in_transaction
    except ProgrammingError:
        return True
