"""What our databases have in common: connections that the threads of this process use in turn, and kept texts of
statements.

Peewee's pool takes two locks for each connection that it gives and takes back, and asks the connection's socket, or
opens a new one, while it has them: a hundred threads queue for that.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import Generic, TypeVar

from peewee import Context, Database, Node, OperationalError, _ConnectionState

from ostler_control.statement_forms import Texts
from ostler_control.statements import FastContext

C = TypeVar("C")


class Lending(Database, Generic[C]):
    """A database, with the connections that no thread has. Thread-safe."""

    context_class: type[Context] = FastContext
    _state: _ConnectionState

    def __init__(self, name: str, **options: object) -> None:
        """options: the driver's and peewee's."""
        self._idle: deque[C] = deque()
        self._open = set[C]()
        self._texts = Texts()
        super().__init__(name, autoconnect=False, **options)  # type: ignore[arg-type]  # the driver checks its own

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Gives this thread a connection, of the idle ones the one that was used last."""
        state = self._state
        if not state.closed:
            if reuse_if_open:
                return False
            raise OperationalError("Connection already opened.")
        state.set_connection(self._take())
        return True

    def close(self) -> bool:
        """Takes this thread's connection back; whether it had one."""
        state = self._state
        if state.closed:
            return False
        if state.transactions:
            raise OperationalError("Attempting to close database while transaction is open.")
        connection: C = state.conn
        state.reset()
        self._take_back(connection)
        return True

    def close_idle(self) -> None:
        """Closes the connections that no thread has."""
        while (connection := self._pop()) is not None:
            self.drop(connection)

    def close_all(self) -> None:
        """Closes every connection: a thread that has one meets an outage."""
        self.close()
        self.close_idle()
        for connection in list(self._open):
            self._cut(connection)

    def drop(self, connection: C) -> None:
        """Closes a connection for good."""
        self._open.discard(connection)
        self._end(connection)

    def execute(self, query: Node, **_: object) -> object:
        return self.execute_sql(*self._texts.write(query, self.get_sql_context))  # type: ignore[no-untyped-call]

    def _pop(self) -> C | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    @abstractmethod
    def _take(self) -> C:
        """An idle connection, or a further one."""

    @abstractmethod
    def _take_back(self, connection: C) -> None:
        """Keeps a connection if the next thread can use it."""

    @abstractmethod
    def _end(self, connection: C) -> None:
        """Closes a connection that no other thread has."""

    @abstractmethod
    def _cut(self, connection: C) -> None:
        """Ends a connection that another thread has."""
