"""The connections to PostgreSQL, and how statements go over them."""

from __future__ import annotations

import datetime
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import peewee
import psycopg
import pytest
from ostler_control import database, libpq, postgresql
from ostler_control.models import Zone, db, new_id
from ostler_control.outage import outage
from playhouse.pool import MaxConnectionsExceeded

from tests import databases
from tests.fakes.working_agent import wait_until

pytestmark = pytest.mark.slow

PREPARED = "SELECT statement FROM pg_prepared_statements WHERE statement LIKE 'SELECT $1%'"


@pytest.fixture
def bound(postgresql: str) -> Iterator[str]:
    """Without a session for the test's thread."""
    url = databases.new_database(postgresql, f"t_{uuid.uuid4().hex}")
    with databases.bound(url):
        db.close()
        yield url


def pid() -> int:
    with database.session():
        found: tuple[int] = db.execute_sql("SELECT pg_backend_pid()").fetchone()
    return found[0]


def test_values_of_each_kind_come_back_as_they_were(bound: str) -> None:
    time_ = datetime.datetime(2026, 11, 28, 9, 30, 1, 5)
    values = ("it's %s\n\\ $1", 7, -1, 1 << 40, True, False, 0.1, time_, None, psycopg.Binary(b"\0\xff"))
    kinds = (
        "text",
        "integer",
        "smallint",
        "bigint",
        "boolean",
        "boolean",
        "double precision",
        "timestamp",
        "text",
        "bytea",
    )
    query = f"SELECT {', '.join(f'%s::{kind}' for kind in kinds)}"
    with database.session():
        for _ in range(4):
            assert db.execute_sql(query, values).fetchall() == [(*values[:-1], b"\0\xff")]


def test_a_percent_sign_is_doubled_as_for_psycopg(bound: str) -> None:
    with database.session():
        for _ in range(3):
            assert db.execute_sql("SELECT 'a%%b' LIKE %s, 7 %% 4", ("a%b",)).fetchone() == (True, 3)
        assert db.execute_sql("SELECT 7 %% 4").fetchone() == (3,)


def test_a_cursor_has_the_rows_their_number_and_the_names_of_their_columns(bound: str) -> None:
    with database.session():
        found = db.execute_sql("SELECT n AS number, 'x' AS letter FROM generate_series(1, 3) n WHERE n < %s", (9,))
        assert ([name for (name,) in found.description], found.rowcount) == (["number", "letter"], 3)
        assert (found.fetchone(), found.fetchall(), found.fetchone()) == ((1, "x"), [(2, "x"), (3, "x")], None)
        Zone.create(name="a")
        Zone.create(name="b")
        assert Zone.update(name=Zone.name).execute() == 2
        assert Zone.insert(id=new_id(), name="b").on_conflict_ignore().as_rowcount().execute() == 0
        assert [*Zone.select(Zone.name).order_by(Zone.name).dicts()] == [{"name": "a"}, {"name": "b"}]
        assert db.execute_sql("SELECT 1 WHERE false").fetchall() == []


def test_a_statement_that_is_executed_again_is_prepared(bound: str) -> None:
    with database.session():
        db.execute_sql("SELECT %s::int + 1", (1,))
        assert db.execute_sql(PREPARED).fetchall() == []
        for number in (1, 2):
            assert db.execute_sql("SELECT %s::int + 1", (number,)).fetchone() == (number + 1,)
            assert db.execute_sql(PREPARED).fetchall() == [("SELECT $1::int + 1",)]


def test_so_is_one_without_values_but_for_what_is_no_query(bound: str) -> None:
    with database.session():
        for _ in range(3):
            with database.transaction():
                assert db.execute_sql("(SELECT 7 AS number)").fetchall() == [(7,)]
                assert db.execute_sql("SET LOCAL lock_timeout = '1s'; SET LOCAL work_mem = '1MB'").fetchall() == []
        assert db.execute_sql(
            "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '(SELECT 7%%'"
        ).fetchall()
        assert not db.execute_sql("SELECT 1 FROM pg_prepared_statements WHERE statement = 'BEGIN'").fetchall()


def test_a_statement_is_executed_with_values_of_other_types(bound: str) -> None:
    """psycopg tells the server that a number is of two, four or eight bytes."""
    with database.session():
        for value in (1, None, 1 << 20, 2, None, 1 << 40, 1 << 20, 3):
            assert db.execute_sql("SELECT COALESCE(%s, 5::bigint)", (value,)).fetchone() == (value or 5,)


def test_a_connection_keeps_no_more_statements_than_it_may(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libpq, "_MAX_STATEMENTS", 3)
    with database.session():
        for _ in range(2):
            for number in range(10):
                for _ in range(2):
                    assert db.execute_sql(f"SELECT %s::int + {number}", (1,)).fetchone() == (1 + number,)
        assert len(db.execute_sql(PREPARED).fetchall()) <= 3


def test_nor_of_one_statement_with_values_of_many_types(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libpq, "_MAX_STATEMENTS", 3)
    sizes = (1, 1 << 20, 1 << 40, None)
    with database.session():
        for first in sizes:
            for second in sizes:
                for _ in range(2):
                    row = db.execute_sql("SELECT %s::bigint, %s::bigint", (first, second)).fetchone()
                    assert row == (first, second)
        assert 0 < len(db.execute_sql(PREPARED).fetchall()) <= 3


def test_savepoints_take_no_statements_place(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a name of its own."""
    monkeypatch.setattr(libpq, "_MAX_STATEMENTS", 3)
    with database.transaction():
        for _ in range(2):
            db.execute_sql("SELECT %s::int + 1", (1,))
        for _ in range(4):
            with database.transaction():
                pass
        assert db.execute_sql(PREPARED).fetchall() == [("SELECT $1::int + 1",)]


@pytest.mark.parametrize("limit", range(1, 6))
def test_a_failed_transaction_can_be_rolled_back_however_many_statements_are_kept(
    bound: str, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(libpq, "_MAX_STATEMENTS", limit)
    zone = Zone(name="a")
    with database.transaction():
        zone.save(force_insert=True)
        for _ in range(2):
            with pytest.raises(peewee.IntegrityError), database.transaction():
                Zone.create(id=zone.id, name="b")
        Zone.create(name="c")
    with pytest.raises(peewee.IntegrityError), database.transaction():
        Zone.create(id=zone.id, name="b")
    with database.session():
        assert Zone.select().count() == 2


def test_a_refused_statement_has_peewees_error_and_the_connection_goes_on(bound: str) -> None:
    with database.session():
        zone = Zone.create(name="a")
        for _ in range(3):
            with pytest.raises(peewee.IntegrityError) as caught:
                Zone.create(id=zone.id, name="b")
            assert outage(caught.value) is None
        with pytest.raises(peewee.ProgrammingError):
            db.execute_sql("SELECT no_such_column FROM zone WHERE id = %s", ("x",))
        assert Zone.select().count() == 1


def test_other_threads_run_while_one_waits_for_an_answer(bound: str) -> None:
    def sleep() -> None:
        with database.session():
            db.execute_sql("SELECT pg_sleep(0.6)")
            for _ in range(2):
                db.execute_sql("SELECT pg_sleep(%s)", (0.2,))

    with ThreadPoolExecutor() as threads:
        sleeping, rounds = threads.submit(sleep), 0
        while not sleeping.done():
            time.sleep(0.01)
            rounds += 1
    assert rounds >= 20


def test_a_lost_connection_is_an_outage_and_is_replaced(bound: str) -> None:
    def lose() -> None:
        with database.session():
            db.execute_sql("SELECT %s::int", (1,))
            with psycopg.connect(bound, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 10000)", (before,))
            db.execute_sql("SELECT %s::int", (1,))

    before = pid()
    with pytest.raises(peewee.OperationalError) as caught:
        lose()
    assert outage(caught.value) is not None
    assert pid() != before


def test_the_connection_that_was_used_last_is_given_first(bound: str) -> None:
    barrier = threading.Barrier(3)

    def at_once() -> int:
        with database.session():
            barrier.wait()
            return pid()

    with ThreadPoolExecutor(3) as threads:
        pids = [found.result() for found in [threads.submit(at_once) for _ in range(3)]]
    assert len({*pids}) == 3
    assert len({pid() for _ in range(5)}) == 1


def test_no_more_connections_are_open_than_may_be_and_threads_wait_for_one(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = postgresql.MAX_CONNECTIONS

    def busy() -> int:
        with database.session():
            found: tuple[int] = db.execute_sql("SELECT pg_backend_pid() FROM pg_sleep(0.1)").fetchone()
        return found[0]

    with ThreadPoolExecutor(2 * limit) as threads:
        pids = [found.result() for found in [threads.submit(busy) for _ in range(4 * limit)]]
    assert len({*pids}) <= limit
    with psycopg.connect(bound) as other:
        row = other.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()").fetchone()
    assert row is not None
    assert row[0] <= limit + 1


def test_a_thread_that_gets_no_connection_meets_an_outage(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "_TURN_TIMEOUT_S", 0.1)
    limit = postgresql.MAX_CONNECTIONS
    taken, over = threading.Barrier(limit + 1), threading.Event()

    def hold() -> None:
        with database.session():
            taken.wait()
            over.wait()

    with ThreadPoolExecutor(limit) as threads:
        holding = [threads.submit(hold) for _ in range(limit)]
        taken.wait()
        try:
            with pytest.raises(MaxConnectionsExceeded) as caught:
                pid()
        finally:
            over.set()
        for one in holding:
            one.result()
    assert outage(caught.value) is not None
    assert pid()


def test_a_thread_that_could_not_connect_takes_nobodys_connection(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "_TURN_TIMEOUT_S", 0.1)
    database.connect("postgresql://ostler@127.0.0.1:1/none")
    for _ in range(postgresql.MAX_CONNECTIONS + 1):
        with pytest.raises(peewee.OperationalError) as caught, database.session():
            pass
        assert outage(caught.value) is not None


def test_a_transaction_that_was_left_open_is_rolled_back(bound: str) -> None:
    first = pid()
    with database.session():
        db.execute_sql("BEGIN")
        Zone.create(name="left")
    assert pid() == first
    with database.session():
        assert Zone.select().count() == 0


def test_a_connection_is_replaced_after_a_while(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pid()
    assert pid() == first
    monkeypatch.setattr(postgresql, "_LIFETIME_S", 0.0)
    assert pid() != first


def test_disconnecting_closes_the_connections_of_all_threads(bound: str) -> None:
    taken, closed = threading.Event(), threading.Event()

    def hold() -> None:
        with database.session():
            db.execute_sql("SELECT 1")
            taken.set()
            closed.wait()
            db.execute_sql("SELECT 1")

    with ThreadPoolExecutor(1) as threads:
        holding = threads.submit(hold)
        taken.wait()
        pid()
        database.disconnect()
        closed.set()
        with pytest.raises(peewee.OperationalError):
            holding.result()
    with psycopg.connect(bound) as other:
        deadline = time.monotonic() + 10
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while (other.execute(query).fetchone() or (1,))[0]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            other.rollback()


def test_disconnecting_ends_what_a_thread_waits_for(bound: str) -> None:
    def wait() -> None:
        with database.session():
            db.execute_sql("SELECT pg_sleep(20)")

    query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(20)' "
    query += "AND datname = current_database()"
    with psycopg.connect(bound, autocommit=True) as other, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(wait)
        wait_until(lambda: other.execute(query).fetchone() == (1,))
        begin_s = time.monotonic()
        database.disconnect()
        with pytest.raises(peewee.OperationalError) as caught:
            waiting.result()
    assert outage(caught.value) is not None
    assert time.monotonic() - begin_s < 5


def test_a_thread_has_one_connection_at_a_time(bound: str) -> None:
    with pytest.raises(peewee.InterfaceError):
        db.execute_sql("SELECT 1")
    with database.session():
        with pytest.raises(peewee.OperationalError):
            db.connect()
        assert not db.connect(reuse_if_open=True)
        with database.transaction(), pytest.raises(peewee.OperationalError):
            db.close()
    assert not db.close()
