"""SQLite's one writing connection."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peewee
import pytest
from ostler_control import database
from ostler_control.models import Zone, db
from ostler_control.outage import outage


def test_one_connection_writes_for_all_threads_and_others_read(sqlite_database: str) -> None:
    """A connection beside which another writes reads its pages again."""
    begin = _written()

    def write(number: int) -> int:
        with database.session():
            Zone.select().count()
            reader = db.connection()
            with database.transaction():
                assert db.connection() is not reader
                Zone.create(name=f"z{number}")
                written: int = db.connection().total_changes
            assert db.connection() is reader
            assert Zone.select().where(Zone.name == f"z{number}").exists()
        return written

    with ThreadPoolExecutor(4) as threads:
        assert {*threads.map(write, range(20))} == {begin + 1 + number for number in range(20)}


def test_a_writer_without_a_session_takes_no_connection_of_the_pool(sqlite_database: str) -> None:
    db.close()
    db.close_idle()
    with database.transaction():
        Zone.create(name="z")
    assert db.is_closed()
    assert not db._idle


def test_after_a_failure_of_the_database_another_connection_writes(sqlite_database: str) -> None:
    failed = _connection_that_fails_with(peewee.OperationalError("disk I/O error"))
    kept = _connection_that_fails_with(ZeroDivisionError())
    assert kept is not failed
    with database.transaction():
        assert db.connection() is kept
        Zone.create(name="z")
    assert Zone.select().count() == 1


def test_that_it_cannot_be_opened_is_an_outage(sqlite_database: str) -> None:
    """As when the directory is not mounted: operations wait for that, and callers are told to."""
    _connection_that_fails_with(peewee.OperationalError("disk I/O error"))
    directory = Path(db.database).parent
    away = directory.rename(f"{directory}-away")
    with pytest.raises(peewee.OperationalError) as refused:
        _create_zone("refused")
    away.rename(directory)
    assert outage(refused.value) is not None
    _create_zone("z")


@pytest.mark.parametrize("spoil", ["close", "begin"])
def test_a_connection_on_which_nobody_can_begin_is_replaced(sqlite_database: str, spoil: str) -> None:
    with database.transaction():
        connection = db.connection()
    if spoil == "close":
        connection.close()
    else:
        connection.execute("BEGIN")
    with pytest.raises((peewee.DatabaseError, sqlite3.ProgrammingError)):
        _create_zone("refused")
    _create_zone("z")
    assert [zone.name for zone in Zone.select()] == ["z"]


def _create_zone(name: str) -> None:
    with database.transaction():
        Zone.create(name=name)


def _connection_that_fails_with(error: Exception) -> object:
    used: list[object] = []

    def fail() -> None:
        with database.transaction():
            used.append(db.connection())
            raise error

    with pytest.raises(type(error)):
        fail()
    return used[0]


def _written() -> int:
    """How many rows the writing connection has written."""
    with database.transaction():
        written: int = db.connection().total_changes
        return written
