"""PostgreSQL as the database, and the connections to it, which the threads of this process use in turn.

Peewee's pool takes two locks for each connection that it gives and takes back, and asks the connection's socket, or
opens a new one, while it has them: a hundred threads queue for that.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque

from peewee import (  # type: ignore[attr-defined]  # the stubs leave the last one out
    InterfaceError,
    OperationalError,
    PostgresqlDatabase,
    __exception_wrapper__,
)
from playhouse.pool import MaxConnectionsExceeded
from psycopg import Connection

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


class Postgresql(PostgresqlDatabase):
    """A database, with the connections that no thread has. Thread-safe."""

    def __init__(self, name: str, **parameters: object) -> None:
        """parameters: libpq's."""
        # One for each further thread that may have a connection.
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(MAX_CONNECTIONS):
            self._turns.put(None)
        self._idle: deque[Link] = deque()
        self._open = set[Link]()
        super().__init__(name, autoconnect=False, prefer_psycopg3=True, **parameters)  # type: ignore[arg-type]  # libpq checks them

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Gives this thread a connection, of the idle ones the one that was used last. Raises MaxConnectionsExceeded
        when all are in use, and stay so."""
        state = vars(self)["_state"]
        if not state.closed:
            if reuse_if_open:
                return False
            raise OperationalError("Connection already opened.")
        try:
            self._turns.get(timeout=_TURN_TIMEOUT_S)
        except queue.Empty:
            raise MaxConnectionsExceeded(f"all {MAX_CONNECTIONS} connections are in use") from None
        try:
            state.set_connection(self._idle_one() or self._connect())
        except BaseException:
            self._turns.put(None)
            raise
        return True

    def close(self) -> bool:
        """Takes this thread's connection back; whether it had one."""
        state = vars(self)["_state"]
        if state.closed:
            return False
        if self.in_transaction():
            raise OperationalError("Attempting to close database while transaction is open.")
        link: Link = state.conn
        state.reset()
        try:
            if link.is_reusable():
                link.back_s = time.monotonic()
                self._idle.append(link)
            else:
                self._drop(link)
        finally:
            self._turns.put(None)
        return True

    def close_idle(self) -> None:
        """Closes the connections that no thread has."""
        while (link := self._pop()) is not None:
            self._drop(link)

    def close_all(self) -> None:
        """Closes every connection: a thread that has one meets an outage."""
        self.close()
        self.close_idle()
        for link in list(self._open):
            self._drop(link)

    def cursor(self, named_cursor: None = None) -> Cursor:
        """For one statement."""
        state = vars(self)["_state"]
        if state.closed:
            raise InterfaceError("Error, database connection not opened.")
        return Cursor(state.conn)

    def connection(self) -> Connection[Row]:
        """This thread's, for what is no statement of the models."""
        link: Link = vars(self)["_state"].conn
        return link.connection

    def _connect(self) -> Link:
        parameters = vars(self)["connect_params"]
        with __exception_wrapper__:
            link = Link(Connection.connect(dbname=self.database, autocommit=True, prepare_threshold=None, **parameters))
        self._open.add(link)
        return link

    def _idle_one(self) -> Link | None:
        while (link := self._pop()) is not None:
            if self._works(link):
                return link
            self._drop(link)
        return None

    def _pop(self) -> Link | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _works(self, link: Link) -> bool:
        """To ask the server (SELECT 1) takes as long as what is asked next."""
        now_s = time.monotonic()
        if now_s - link.open_s > _LIFETIME_S:
            return False
        if now_s - link.back_s < _UNASKED_S and link.is_silent():
            return True
        return not vars(self)["_adapter"].is_connection_closed(link.connection)

    def _drop(self, link: Link) -> None:
        self._open.discard(link)
        with contextlib.suppress(Exception):
            link.connection.close()
