"""Databases: which are refused, and what sessions and transactions promise."""

from __future__ import annotations

import threading

import peewee
import pytest
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_control import database
from ostler_control.models import Zone, db


def test_a_database_of_a_newer_version_is_refused(own_database: str) -> None:
    mark = "?" if database.is_sqlite() else "%s"
    db.execute_sql(
        f"INSERT INTO schema_migration (name, applied) VALUES ({mark}, {mark})", ("9999_future", "2030-01-01")
    )
    with pytest.raises(FailedPreconditionError, match="9999_future") as caught:
        database.migrate()
    assert caught.value.reason == "DATABASE_TOO_NEW"


def test_a_query_outside_a_session_fails_rather_than_leak_a_connection(fresh_database: str) -> None:
    errors: list[Exception] = []

    def query() -> None:
        try:
            Zone.select().count()
        except Exception as error:
            errors.append(error)
        with database.session(), database.session():
            assert Zone.select().count() == 0
        assert db.is_closed()

    thread = threading.Thread(target=query)
    thread.start()
    thread.join()
    assert [type(error) for error in errors] == [peewee.InterfaceError]


def test_what_joins_a_transaction_ends_with_it(fresh_database: str) -> None:
    def fail_after(name: str) -> None:
        with database.transaction():
            with database.joined():
                Zone.create(name=name)
            raise ZeroDivisionError

    def fail_within(name: str) -> None:
        with database.joined():
            Zone.create(name=name)
            raise ZeroDivisionError

    with database.joined():
        Zone.create(name="alone")
    for fail in (fail_after, fail_within):
        with pytest.raises(ZeroDivisionError):
            fail("failed")
    assert [zone.name for zone in Zone.select()] == ["alone"]


def test_a_transaction_is_undone_as_a_whole(fresh_database: str) -> None:
    def fail() -> None:
        with database.transaction():
            Zone.create(name="a")
            with database.transaction():
                Zone.create(name="b")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert Zone.select().count() == 0


def test_threads_that_read_and_then_write_lose_no_update(fresh_database: str) -> None:
    zone = Zone.create(name="0")

    def add() -> None:
        for _ in range(10):
            with database.transaction():
                query = Zone.select().where(Zone.id == zone.id)
                found = (query if database.is_sqlite() else query.for_update()).get()
                Zone.update(name=str(int(found.name) + 1)).where(Zone.id == zone.id).execute()

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Zone.get().name == "80"


def test_foreign_keys_hold_and_sqlite_is_durable(fresh_database: str) -> None:
    if database.is_sqlite():
        pragmas = {name: db.pragma(name) for name in ("foreign_keys", "synchronous", "journal_mode")}
        assert pragmas == {"foreign_keys": 1, "synchronous": 1, "journal_mode": "wal"}
    with pytest.raises(peewee.IntegrityError):
        db.execute_sql(
            "INSERT INTO pool_host (id, create_time, pool_id, host_id, reachable, reason) "
            "VALUES ('x', '2030-01-01', 'no', 'no', false, '')"
        )


def test_another_kind_of_url_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="sqlite:///"):
        database.connect("mysql://x")
