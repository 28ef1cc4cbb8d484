"""The connections to SQLite."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import peewee
import pytest
from ostler_control import database
from ostler_control.models import Zone, db


def test_a_connection_comes_back_and_the_last_one_is_used_first(sqlite_database: str) -> None:
    db.close()
    db.close_idle()
    first, second = _of_two_threads()
    assert first is not second
    assert [*db._idle] == [first, second]
    with database.session():
        assert db.connection() is second
        assert [*db._idle] == [first]
    assert [*db._idle] == [first, second]


def _of_two_threads() -> list[sqlite3.Connection]:
    """Connections that two threads have at once, and give back one after the other."""
    turns = [threading.Event(), threading.Event()]
    both = threading.Barrier(2)

    def use(number: int) -> sqlite3.Connection:
        with database.session():
            connection: sqlite3.Connection = db.connection()
            both.wait(20)
            if number:
                assert turns[0].wait(20)
        turns[number].set()
        return connection

    with ThreadPoolExecutor(2) as threads:
        return [*threads.map(use, range(2))]


def test_a_thread_has_one_connection_at_a_time(sqlite_database: str) -> None:
    assert not db.connect(reuse_if_open=True)
    with pytest.raises(peewee.OperationalError, match="already"):
        db.connect()
    assert db.close()
    assert not db.close()
    with pytest.raises(peewee.InterfaceError, match="not opened"):
        Zone.select().count()


@pytest.mark.parametrize("spoil", ["close", "begin"])
def test_a_connection_on_which_nobody_can_begin_is_not_kept(sqlite_database: str, spoil: str) -> None:
    db.close()
    db.close_idle()
    with database.session():
        spoilt = db.connection()
        if spoil == "close":
            spoilt.close()
        else:
            spoilt.execute("BEGIN")
    assert not db._idle
    with pytest.raises(sqlite3.ProgrammingError):
        spoilt.execute("SELECT 1")
    with database.session():
        assert Zone.select().count() == 0


def test_a_connection_in_a_transaction_stays(sqlite_database: str) -> None:
    with database.transaction():
        Zone.create(name="z")
        with pytest.raises(peewee.OperationalError, match="transaction"):
            db.close()
        Zone.create(name="y")
    assert Zone.select().count() == 2


def test_a_transaction_that_fails_leaves_nothing(sqlite_database: str) -> None:
    with pytest.raises(peewee.IntegrityError):
        _create_twice("z")
    assert Zone.select().count() == 0


@database.transaction()
def _create_twice(name: str) -> None:
    Zone.create(name=name)
    Zone.create(name=name)


def test_failures_are_peewees(sqlite_database: str) -> None:
    with pytest.raises(peewee.OperationalError, match="no such table") as caught:
        db.execute_sql("SELECT 1 FROM none_such")
    assert isinstance(caught.value.__context__, sqlite3.OperationalError)
    with pytest.raises(peewee.ProgrammingError):
        db.execute_sql("SELECT ?", ())


def test_everything_is_closed(sqlite_database: str) -> None:
    mine = db.connection()
    (idle, _) = _of_two_threads()
    with database.transaction():
        writing = db.connection()
    database.disconnect()
    for connection in (mine, idle, writing):
        with pytest.raises(sqlite3.ProgrammingError):
            connection.execute("SELECT 1")
    assert not db._open
    assert db.is_closed()
    db.connect()
