"""Moves a control plane from SQLite to PostgreSQL, in one transaction.

A kill at any moment leaves the SQLite file as it was; a repeat begins again, or completes what was committed.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from peewee import PeeweeException

from ostler_control import database, run_lock, table_copy
from ostler_control.config import ControlConfig
from ostler_control.keys import open_provider, versions
from ostler_control.models import Passphrase, db
from ostler_control.operations import old_journal
from ostler_control.table_copy import Table, Target

Plan = list[tuple[sqlite3.Connection, Table]]

_MIGRATED_SUFFIX = ".migrated"
_LOCK_TIMEOUT_S = 30.0
_MAX_NAMED = 10


@dataclass(frozen=True)
class Migrated:
    """rows, tables: how much PostgreSQL has now; passphrases: how many were opened there; source: the SQLite file,
    under the name that it is kept by."""

    rows: int
    tables: int
    passphrases: int
    source: Path


def migrate_database(config: ControlConfig, source: Path | None = None) -> Migrated:
    """Copies the SQLite file into the empty PostgreSQL database that the configuration names; renames the file then.

    source: default is the state directory's. Raises InvalidArgumentError INVALID_DATABASE_URL; UnavailableError
    DATABASE_UNAVAILABLE; FailedPreconditionError: NO_DATABASE, FILE_EXISTS, RUNS_ALREADY, TARGET_NOT_EMPTY,
    DATABASE_TOO_NEW, SCHEMA_NOT_CREATED, SCHEMAS_DIFFER, COPY_FAILED, COPY_DIFFERS, KEYS_NOT_OPENED. Then PostgreSQL
    has no more rows than before, and the SQLite file has its name.
    """
    if not config.database.startswith(("postgresql://", "postgres://")):
        raise InvalidArgumentError(
            "database_url must name the PostgreSQL database to copy to (postgresql://...)", "INVALID_DATABASE_URL"
        )
    path = source or config.state.database
    _check_source(path)
    with run_lock.alone(config.state), run_lock.filling(config.database) as connection:
        used = table_copy.used(connection)
        migrated = _copy(config, path, used)
        _rename(path)
    return migrated


def _copy(config: ControlConfig, path: Path, used: list[str]) -> Migrated:
    """Copies and compares, in one transaction.

    used: the tables of PostgreSQL that have rows: none, or those of a copy that was committed before a kill, which is
    only compared.
    """
    if not used:
        _migrate_schema(f"sqlite:///{path}", config.state.old_journal)
        _migrate_schema(config.database)
    with ExitStack() as stack:
        stack.callback(database.disconnect)
        file = stack.enter_context(_locked(path))
        database.disconnect()
        database.connect(config.database)
        stack.enter_context(database.transaction())
        target: Target = db.connection()
        try:
            plan = [(file, table) for table in table_copy.tables(file, target, "public")]
            if not used:
                _insert(plan, target)
            differing, rows = _compare(plan, target)
        except FailedPreconditionError as error:
            raise (_not_empty(used) if used else error) from None
        if differing:
            raise _not_empty(used) if used else _differs(differing)
        return Migrated(rows, len(plan), _open_passphrases(config), _kept(path))


def _check_source(path: Path) -> None:
    if path.exists():
        if _kept(path).exists():
            raise FailedPreconditionError(
                f"{_kept(path)} is in the way: an earlier migration left it; move it elsewhere", "FILE_EXISTS"
            )
        return
    before = f": it was migrated before, and is kept as {_kept(path)}" if _kept(path).exists() else ""
    raise FailedPreconditionError(f"there is no SQLite database {path}{before}", "NO_DATABASE")


def _not_empty(used: list[str]) -> FailedPreconditionError:
    named = ", ".join(used[:_MAX_NAMED]) + (", ..." if len(used) > _MAX_NAMED else "")
    return FailedPreconditionError(
        f"the PostgreSQL database has rows already (in {named}), which are not those of the SQLite file. If the file "
        "was migrated before and the fleet has used PostgreSQL since, keep the database and move the file elsewhere. "
        "Otherwise create another, empty database and name that one",
        "TARGET_NOT_EMPTY",
    )


def _differs(tables: list[str]) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"PostgreSQL has other rows than the SQLite file in {', '.join(tables)}, and nothing was kept: report this as "
        "a bug",
        "COPY_DIFFERS",
    )


def _migrate_schema(url: str, journal: Path | None = None) -> None:
    """Brings a side to this version, so that both have the same tables. journal: of an older release, if it exists."""
    database.connect(url)
    try:
        database.migrate()
        if journal is not None:
            old_journal.take_over(journal)
    except PeeweeException as error:
        raise FailedPreconditionError(
            f"the tables could not be created: {str(error).splitlines()[0]}", "SCHEMA_NOT_CREATED"
        ) from error
    finally:
        database.disconnect()


def _locked(path: Path) -> closing[sqlite3.Connection]:
    """The file, with nobody else writing to it."""
    connection = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return closing(connection)


def _insert(plan: Plan, target: Target) -> None:
    for file, table in plan:
        try:
            table_copy.copy(file, target, table)
        except psycopg.Error as error:
            raise FailedPreconditionError(
                f"PostgreSQL refused table {table.name}, and nothing was kept: {str(error).splitlines()[0]}",
                "COPY_FAILED",
            ) from error


def _compare(plan: Plan, target: Target) -> tuple[list[str], int]:
    """Names of the tables whose rows differ, and the number of rows on PostgreSQL."""
    differing, rows = [], 0
    for file, table in plan:
        found = table_copy.target_content(target, table)
        rows += found.rows
        if found != table_copy.source_content(file, table):
            differing.append(table.name)
    return differing, rows


def _open_passphrases(config: ControlConfig) -> int:
    if not Passphrase.select().exists():
        return 0
    provider = open_provider(config.state_dir, config.vault, config.key_provider)
    count, broken = versions.verify(provider.stored())
    if broken:
        named = ", ".join(f"{one.type} {one.name or one.id} ({one.reason})".strip() for one in broken[:_MAX_NAMED])
        raise FailedPreconditionError(
            f"{len(broken)} of {count} passphrases do not open: {named}; bring back the key they were sealed under, or "
            "delete what they belong to, then repeat this",
            "KEYS_NOT_OPENED",
        )
    return count


def _kept(path: Path) -> Path:
    return path.with_name(path.name + _MIGRATED_SUFFIX)


def _rename(path: Path) -> None:
    """So that no control plane starts on it again by mistake."""
    for suffix in ("-wal", "-shm", ""):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.replace(path.with_name(f"{path.name}{_MIGRATED_SUFFIX}{suffix}"))
