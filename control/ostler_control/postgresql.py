"""PostgreSQL as the database, and the connections to it, which the threads of this process use in turn."""

from __future__ import annotations

import contextlib
import queue
import time

from peewee import (  # type: ignore[attr-defined]  # the stubs leave the last one out
    InterfaceError,
    PostgresqlDatabase,
    __exception_wrapper__,
)
from playhouse.pool import MaxConnectionsExceeded
from psycopg import Connection

from ostler_control.lending import Lending
from ostler_control.libpq import Cursor, Link, Row

# With the replica lock's (`run_lock`) three replicas stay below 97, what PostgreSQL allows users by default.
MAX_CONNECTIONS = 20
# How long a thread waits for another's connection.
_TURN_TIMEOUT_S = 30.0
# An older connection is replaced: the address may lead to another server now, and what it has prepared is freed.
_LIFETIME_S = 600.0
# A connection that nobody has used for longer is asked whether it works: what is between may have dropped it without a
# word.
_UNASKED_S = 5.0


class Postgresql(Lending[Link], PostgresqlDatabase):
    """A database, with the connections that no thread has. Thread-safe."""

    def __init__(self, name: str, **parameters: object) -> None:
        """parameters: libpq's."""
        # One for each further thread that may have a connection.
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(MAX_CONNECTIONS):
            self._turns.put(None)
        super().__init__(name, prefer_psycopg3=True, **parameters)

    def cursor(self, named_cursor: None = None) -> Cursor:
        """For one statement."""
        state = self._state
        if state.closed:
            raise InterfaceError("Error, database connection not opened.")
        return Cursor(state.conn)

    def connection(self) -> Connection[Row]:
        """This thread's, for what is no statement of the models."""
        link: Link = self._state.conn
        return link.connection

    def _take(self) -> Link:
        """Raises MaxConnectionsExceeded when all are in use, and stay so."""
        try:
            self._turns.get(timeout=_TURN_TIMEOUT_S)
        except queue.Empty:
            raise MaxConnectionsExceeded(f"all {MAX_CONNECTIONS} connections are in use") from None
        try:
            while (link := self._pop()) is not None:
                if self._works(link):
                    return link
                self.drop(link)
            return self._further()
        except BaseException:
            self._turns.put(None)
            raise

    def _take_back(self, link: Link) -> None:
        try:
            if link.is_reusable():
                link.back_s = time.monotonic()
                self._idle.append(link)
            else:
                self.drop(link)
        finally:
            self._turns.put(None)

    def _further(self) -> Link:
        parameters = vars(self)["connect_params"]
        with __exception_wrapper__:
            link = Link(Connection.connect(dbname=self.database, autocommit=True, prepare_threshold=None, **parameters))
        self._open.add(link)
        return link

    def _works(self, link: Link) -> bool:
        """To ask the server (SELECT 1) takes as long as what is asked next."""
        now_s = time.monotonic()
        if now_s - link.open_s > _LIFETIME_S:
            return False
        if now_s - link.back_s < _UNASKED_S and link.is_silent():
            return True
        return not vars(self)["_adapter"].is_connection_closed(link.connection)

    def _end(self, link: Link) -> None:
        with contextlib.suppress(Exception):
            link.connection.close()

    def _cut(self, link: Link) -> None:
        with contextlib.suppress(Exception):
            link.cut()
