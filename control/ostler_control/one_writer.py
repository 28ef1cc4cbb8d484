"""SQLite's one writing connection of this process, which transactions use in turn.

When a connection writes, every other one drops the pages that it keeps in memory, and reads them from the file again.
With one that writes, it keeps them; that saves a third of a short transaction's work. Readers have others.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from sqlite3 import Connection

from ostler_control.outage import outage
from ostler_control.sqlite import Sqlite, is_spoilt


class OneWriter:
    """The connection, and the lock that its users queue for. One for each database."""

    def __init__(self, database: Sqlite) -> None:
        self._database = database
        # SQLite has one writer at a time and polls for its turn; threads of one process queue here instead.
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[Connection]:
        """Inside, the thread's statements run on the writing connection, whatever connection it had before. Not for a
        thread that is inside already.

        After a failure of the database the next turn opens another connection.
        """
        state = vars(self._database)["_state"]
        before = None if state.closed else state.conn
        with self._lock:
            if self._connection is None:
                self._connection = self._database.open()
            state.set_connection(self._connection)
            try:
                yield self._connection
            except Exception as error:
                if outage(error) is not None:
                    self._drop()
                raise
            finally:
                if self._connection is not None and is_spoilt(self._connection):
                    self._drop()
                state.reset()
                if before is not None:
                    state.set_connection(before)

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._database.drop(connection)
