"""Copies the tables of an SQLite file into a schema of a PostgreSQL database, and compares the two.

The tables exist on both sides, with the same columns. SQLite keeps what it is given, so each value is brought into the
form that its column has on PostgreSQL; values are compared in that form.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

import psycopg
from ostler_common.errors import FailedPreconditionError
from psycopg import sql

Row = tuple[object, ...]
Target = psycopg.Connection[Row]

# Lists of applied migrations: each side has its own, and older releases' attempts have left that of DBOS.
_BOOKKEEPING = ("schema_migration", "dbos_migrations")
_ROWS_PER_FETCH = 1000
_DIGEST_RANGE = 1 << 256


@dataclass(frozen=True)
class Content:
    """rows: how many a table has; digest: the sum of their SHA-256 digests, so that their order does not count."""

    rows: int
    digest: int


@dataclass(frozen=True)
class Table:
    """A table on PostgreSQL. columns: names and types; those of the SQLite file have the same names."""

    schema: str
    name: str
    columns: tuple[tuple[str, str], ...]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


def tables(source: sqlite3.Connection, target: Target, schema: str) -> list[Table]:
    """The tables of the SQLite file, each after those that it refers to.

    Raises FailedPreconditionError SCHEMAS_DIFFER when the other side has no such table with the same columns.
    """
    names = [
        str(name)
        for (name,) in source.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        if not str(name).startswith("sqlite_") and name not in _BOOKKEEPING
    ]
    found = []
    for name in TopologicalSorter({name: _referenced(source, name) for name in names}).static_order():
        own = {str(row[1]) for row in source.execute(f'PRAGMA table_info("{name}")')}
        columns = _columns(target, schema, name)
        if own != {column for column, _ in columns}:
            raise FailedPreconditionError(
                f"table {name} has other columns in the SQLite file than on PostgreSQL: start this version of the "
                "control plane once on the SQLite file, stop it, then repeat this",
                "SCHEMAS_DIFFER",
                {"table": name},
            )
        found.append(Table(schema, name, columns))
    return found


def used(target: Target) -> list[str]:
    """Names of the tables of the whole database, Ostler's or not, that have rows."""
    names = target.execute(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' "
        "AND table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
    ).fetchall()
    found = []
    for schema, name in names:
        query = sql.SQL("SELECT EXISTS (SELECT 1 FROM {})").format(sql.Identifier(str(schema), str(name)))
        row = target.execute(query).fetchone()
        if name not in _BOOKKEEPING and row is not None and row[0]:
            found.append(str(name))
    return found


def copy(source: sqlite3.Connection, target: Target, table: Table) -> Content:
    """Inserts all rows, within the caller's transaction; returns what was inserted."""
    columns = sql.SQL(", ").join(sql.Identifier(name) for name, _ in table.columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(table.identifier, columns)
    with target.cursor() as cursor, cursor.copy(statement) as writer:

        def written() -> Iterator[Row]:
            for row in _source_rows(source, table):
                writer.write_row(row)
                yield row

        return _content(written())


def source_content(source: sqlite3.Connection, table: Table) -> Content:
    """What the SQLite file has in a table."""
    return _content(_source_rows(source, table))


def target_content(target: Target, table: Table) -> Content:
    """What PostgreSQL has in a table, within the caller's transaction."""
    columns = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(name)) if kind in ("json", "jsonb") else sql.Identifier(name)
        for name, kind in table.columns
    )
    with target.cursor(name="ostler_rows") as cursor:
        cursor.itersize = _ROWS_PER_FETCH
        cursor.execute(sql.SQL("SELECT {} FROM {}").format(columns, table.identifier))
        return _content(_converted(cursor, table.columns))


def _referenced(source: sqlite3.Connection, name: str) -> set[str]:
    return {str(row[2]) for row in source.execute(f'PRAGMA foreign_key_list("{name}")')} - {name}


def _columns(target: Target, schema: str, name: str) -> tuple[tuple[str, str], ...]:
    rows = target.execute(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        (schema, name),
    )
    return tuple((str(column), str(kind)) for column, kind in rows)


def _source_rows(source: sqlite3.Connection, table: Table) -> Iterator[Row]:
    columns = ", ".join(f'"{name}"' for name, _ in table.columns)
    query = f'SELECT {columns} FROM "{table.name}"'  # noqa: S608 - names from the schema of the file itself
    return _converted(source.execute(query), table.columns)


def _converted(rows: Iterable[Row], columns: Sequence[tuple[str, str]]) -> Iterator[Row]:
    kinds = [kind for _, kind in columns]
    for row in rows:
        yield tuple(_convert(value, kind) for value, kind in zip(row, kinds, strict=True))


def _convert(value: object, kind: str) -> object:
    """A value of either database as PostgreSQL has it in a column of this type."""
    match kind, value:
        case _, None:
            return None
        case "boolean", int():
            return bool(value)
        case "timestamp without time zone", str():
            return datetime.datetime.fromisoformat(value)
        case "real", int() | float():
            return struct.unpack("f", struct.pack("f", value))[0]
        case "double precision", int():
            return float(value)
        case "bytea", bytes() | memoryview():
            return bytes(value)
        case "json" | "jsonb", str():
            return json.dumps(json.loads(value), sort_keys=True)
        case _:
            return value


def _content(rows: Iterable[Row]) -> Content:
    count, digest = 0, 0
    for row in rows:
        count += 1
        digest += int.from_bytes(hashlib.sha256(repr(row).encode()).digest(), "big")
    return Content(count, digest % _DIGEST_RANGE)
