"""SQLite as the database, and the connections on which the threads of this process read in turn. `one_writer` has the
one that writes.

Of the time of a short statement peewee's way to the driver takes a third, and so does its pool of a short session.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from sqlite3 import Connection, Cursor, ProgrammingError

from peewee import (  # type: ignore[attr-defined]  # the stubs leave the last one out
    InterfaceError,
    SqliteDatabase,
    __exception_wrapper__,
)

from ostler_control.lending import Lending


class Sqlite(Lending[Connection], SqliteDatabase):
    """A database, with the connections that no thread has. Thread-safe."""

    def __init__(self, path: str, **options: object) -> None:
        """options: the driver's and peewee's."""
        super().__init__(path, check_same_thread=False, **options)

    def open(self) -> Connection:
        """A further connection."""
        with __exception_wrapper__:
            connection: Connection = self._connect()  # type: ignore[attr-defined]
        self._open.add(connection)
        return connection

    def _take(self) -> Connection:
        return self._pop() or self.open()

    def _take_back(self, connection: Connection) -> None:
        if is_spoilt(connection):
            self.drop(connection)
        else:
            self._idle.append(connection)

    def _end(self, connection: Connection) -> None:
        connection.close()

    def _cut(self, connection: Connection) -> None:
        self.drop(connection)

    def execute_sql(self, sql: str, params: Collection[object] | None = None) -> Cursor:
        state = self._state
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
