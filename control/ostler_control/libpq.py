"""The way of a statement to PostgreSQL and of its rows back.

A cursor of psycopg takes a statement through some thirty functions of Python, which cost more than all that PostgreSQL
does for most of ours. Here libpq sends it and waits for the answer in one call, without Python's lock; psycopg converts
the values.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import time
from collections.abc import Sequence

from psycopg import Connection, OperationalError
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

Row = tuple[object, ...]

# How many statements a connection keeps, at most.
_MAX_STATEMENTS = 1_000
_QUERIES = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.EMPTY_QUERY)


class Link:
    """A connection, with the statements that are prepared on it. For one thread at a time.

    open_s, back_s: when it was opened, and when a thread has given it back.
    """

    def __init__(self, connection: Connection[Row]) -> None:
        self.connection = connection
        self.open_s, self.back_s = time.monotonic(), -math.inf
        self._pgconn = connection.pgconn
        self._heard = select.poll()
        self._heard.register(self._pgconn.socket, select.POLLIN)
        self._values = Transformer(connection)
        # By their texts and the types of their values.
        self._statements: dict[tuple[str, Sequence[int]], _Statement] = {}
        self._prepared = 0

    def run(self, text: str, values: Sequence[object]) -> PGresult:
        """Executes a statement with these in place of each %s. Raises psycopg's errors."""
        if not values and not text.lstrip(" (\n").startswith(_QUERIES):  # BEGIN and the like cannot be prepared
            return _checked(self._pgconn.exec_(text.replace("%%", "%").encode()))
        bound = self._values.dump_sequence(values, (PyFormat.AUTO,) * len(values))
        types, formats = self._values.types or (), self._values.formats
        statement = self._statements.get((text, types))
        if statement is None:  # most are executed again, and others never
            statement = self._keep(text, types)
            return _checked(self._pgconn.exec_params(statement.text, bound, types, formats))
        if not statement.name:
            statement.name = self._prepare(statement.text, types)
        result = self._pgconn.exec_prepared(statement.name, bound, formats)  # type: ignore[arg-type]  # None is NULL
        return _checked(result)

    def rows_of(self, result: PGresult) -> list[Row]:
        """The rows of a result."""
        self._values.set_pgresult(result)
        rows = self._values.load_rows(0, result.ntuples, tuple)
        self._values.set_pgresult(None)
        return rows

    def is_reusable(self) -> bool:
        """Whether it works, and no transaction is left open on it: one that was is rolled back."""
        if self._pgconn.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
            with contextlib.suppress(Exception):
                self.connection.rollback()
        return self._pgconn.transaction_status == TransactionStatus.IDLE

    def is_silent(self) -> bool:
        """Whether the server has said nothing since its last answer: when it ends a connection, it says so."""
        return not self.connection.closed and not self._heard.poll(0)

    def cut(self) -> None:
        """Ends the connection under the thread that has it, which then meets an outage. To close it would free what
        libpq works on in that thread."""
        with socket.socket(fileno=os.dup(self._pgconn.socket)) as same:
            same.shutdown(socket.SHUT_RDWR)

    def _keep(self, text: str, types: Sequence[int]) -> _Statement:
        if len(self._statements) >= _MAX_STATEMENTS:
            _checked(self._pgconn.exec_(b"DEALLOCATE ALL"))
            self._statements.clear()
        self._statements[text, types] = statement = _Statement(text)
        return statement

    def _prepare(self, text: bytes, types: Sequence[int]) -> bytes:
        self._prepared += 1
        name = f"s{self._prepared}".encode()
        _checked(self._pgconn.prepare(name, text, types))
        return name


class Cursor:
    """Executes a statement and has its rows, all read: what peewee needs of a driver's cursor."""

    __slots__ = ("_link", "_next", "_result", "_rows", "rowcount")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._result: PGresult | None = None
        self._rows: list[Row] = []
        self._next = 0
        self.rowcount = -1

    def execute(self, text: str, values: Sequence[object] = ()) -> None:
        """Raises psycopg's errors."""
        self._result = result = self._link.run(text, values)
        if result.status == ExecStatus.TUPLES_OK:
            self._rows = self._link.rows_of(result)
            self.rowcount = len(self._rows)
        elif result.command_tuples is not None:
            self.rowcount = result.command_tuples

    @property
    def description(self) -> list[tuple[str]]:
        """The names of the columns."""
        found = self._result
        names = [found.fname(number) or b"" for number in range(found.nfields)] if found is not None else []
        return [(name.decode(),) for name in names]

    def fetchone(self) -> Row | None:
        """The next row; None after the last one."""
        if self._next >= len(self._rows):
            return None
        self._next += 1
        return self._rows[self._next - 1]

    def fetchall(self) -> list[Row]:
        """All further rows."""
        rows, self._next = self._rows[self._next :] if self._next else self._rows, len(self._rows)
        return rows

    def close(self) -> None:
        """Peewee calls it after the last row."""


class _Statement:
    """text: as the server reads it; name: under which it is prepared; empty: not yet."""

    __slots__ = ("name", "text")

    def __init__(self, text: str) -> None:
        pieces = text.replace("%%", "\0").split("%s")
        numbered = "".join(f"{piece}${number}" for number, piece in enumerate(pieces[:-1], 1)) + pieces[-1]
        self.text, self.name = numbered.replace("\0", "%").encode(), b""


def _checked(result: PGresult) -> PGresult:
    if result.status in _DONE:
        return result
    error = error_from_result(result)
    if error.sqlstate is None:  # it is libpq that speaks: the connection was lost
        raise OperationalError(*error.args)
    raise error
