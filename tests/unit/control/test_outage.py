"""The database is away or full: operations wait, and callers are told to try again."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import peewee
import psycopg
import pytest
from ostler_common.errors import OstlerError, UnavailableError
from ostler_common.tls import TlsFiles
from ostler_control import database, postgresql
from ostler_control.agents import Agents
from ostler_control.database import transaction
from ostler_control.keys import Keyring, create_key_file
from ostler_control.keys.file import FileProvider
from ostler_control.models import Account, Operation, OperationState, Zone, db
from ostler_control.operations import Engine, Run, journal, record_operation, replica_id, workflow
from ostler_control.outage import outage, reported
from ostler_control.periodic import Periodic, Stopping
from playhouse.pool import MaxConnectionsExceeded
from structlog.testing import capture_logs

from tests import databases
from tests.databases import PostgresServer
from tests.fakes import link
from tests.fakes.link import Weather
from tests.fakes.relay import Relay
from tests.fakes.working_agent import wait_until
from tests.needs import need

STEPS = 12


@workflow("account.outage_test")
def _many_small_steps(run: Run) -> None:
    for number in range(STEPS):
        run.step(f"step-{number}", lambda: _touch(run.resource_id))


def _touch(account_id: str) -> None:
    with transaction():
        Account.update(name=Account.name).where(Account.id == account_id).execute()
    time.sleep(0.2)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of its own, because these tests stop it."""
    need(databases.missing())
    with databases.postgresql_server() as running:
        databases.run_sql(running.url + "postgres", "CREATE DATABASE outage")
        yield running


@contextlib.contextmanager
def engine_on(url: str, state_dir: Path) -> Iterator[Engine]:
    create_key_file(state_dir / "kek")
    none = TlsFiles(state_dir, state_dir, state_dir)
    keys = Keyring(FileProvider(state_dir / "kek"))
    engine = Engine(replica_id(state_dir), Agents(none), keys, state_dir)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def test_a_restart_of_the_database_costs_operations_nothing_but_time(server: PostgresServer, tmp_path: Path) -> None:
    database.connect(server.url + "outage")
    try:
        database.migrate()
        with engine_on(server.url + "outage", tmp_path) as engine:
            with transaction():
                accounts = [Account.create(name=f"a{number}") for number in range(6)]
                operations = [record_operation("account.outage_test", account, "alice", {}) for account in accounts]
            for operation in operations:
                engine.launch(operation)
            time.sleep(1.0)  # each is in the middle of its steps
            server.stop()
            with pytest.raises(peewee.OperationalError) as caught, database.session():
                Operation.select().count()
            assert outage(caught.value) is not None
            time.sleep(3.0)
            server.start()
            rows = []
            for operation in operations:
                with contextlib.suppress(peewee.OperationalError):
                    engine.wait(operation.id, 0)
                rows.append(engine.wait(operation.id, 60))
            assert [(row.state, row.error) for row in rows] == [(OperationState.SUCCEEDED, "")] * len(rows)
    finally:
        database.disconnect()


def test_the_rows_of_a_frozen_replica_are_free_after_a_while(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "IDLE_TRANSACTION_LIMIT_S", 1)
    url = server.url + "outage"
    database.connect(url)
    try:
        database.migrate()
        with transaction():
            zone = Zone.create(name="frozen")
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.raises(UnavailableError))
            stack.enter_context(reported())
            stack.enter_context(transaction())
            db.execute_sql(f"UPDATE zone SET name = 'changed' WHERE id = '{zone.id}'")
            with psycopg.connect(url, autocommit=True) as other:
                other.execute("SET lock_timeout = '10s'")
                other.execute(f"UPDATE zone SET name = 'free' WHERE id = '{zone.id}'".encode())
            db.execute_sql("SELECT 1")
        with database.session():
            assert Zone.get_by_id(zone.id).name == "free"
    finally:
        database.disconnect()


def test_the_urls_own_limit_of_idle_transactions_wins(server: PostgresServer) -> None:
    database.connect(server.url + "outage?options=-c%20idle_in_transaction_session_timeout%3D7s")
    try:
        with database.session():
            assert db.execute_sql("SHOW idle_in_transaction_session_timeout").fetchone() == ("7s",)
    finally:
        database.disconnect()


def test_the_urls_own_parameters_win() -> None:
    found = database.postgresql_parameters("postgresql://db.example/ostler?keepalives_idle=60&options=-c%20a.b%3D1")
    assert (found["keepalives_idle"], found["keepalives_count"], found["host"]) == ("60", "4", "db.example")
    assert found["options"].startswith("-c idle_in_transaction_session_timeout=20s -c tcp_keepalives_idle=15 ")
    assert found["options"].endswith(" -c a.b=1")


@pytest.mark.parametrize("answering", [False, True])
def test_a_dead_network_to_postgresql_is_an_outage_and_no_wait_without_end(
    server: PostgresServer, answering: bool
) -> None:
    """answering: PostgreSQL had received the query already, so that nothing is sent that could fail."""
    need(link.missing())
    with link.link(seed=1) as network, contextlib.closing(Relay(server.port, network.near)) as relay:
        database.connect(f"postgresql://ostler@{network.far}:{relay.port}/outage")
        try:
            with database.session():
                db.execute_sql("SELECT 1")
                cut = threading.Timer(1.0 if answering else 0.0, network.set, [{relay.port: Weather(to=1.0, back=1.0)}])
                cut.start()
                if not answering:
                    cut.join()
                begin_s = time.monotonic()
                with pytest.raises(peewee.OperationalError) as caught:
                    db.execute_sql(f"SELECT pg_sleep({2 if answering else 0})")
                assert outage(caught.value) is not None
                assert time.monotonic() - begin_s < 40
        finally:
            database.disconnect()


def test_postgresql_drops_connections_whose_network_is_dead(server: PostgresServer) -> None:
    """They are few. What the server asks of its sockets is what the connection has asked it for."""
    database.connect(server.url + "outage")
    try:
        with database.session():
            for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout"):
                (value,) = db.execute_sql(f"SELECT setting FROM pg_settings WHERE name = '{name}'").fetchone()
                assert value == database._SERVER_LIVENESS[name]
    finally:
        database.disconnect()


def test_a_connection_used_just_now_is_not_asked_whether_it_works(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    database.connect(server.url + "outage")

    def pid() -> int:
        with database.session():
            found: tuple[int] = db.execute_sql("SELECT pg_backend_pid()").fetchone()
        return found[0]

    try:
        first = pid()
        ask = db.obj._adapter.is_connection_closed

        def noted(connection: psycopg.Connection) -> bool:
            asked.append(connection)
            return bool(ask(connection))

        monkeypatch.setattr(db.obj._adapter, "is_connection_closed", noted)
        assert pid() == first
        assert asked == []
        with psycopg.connect(server.url + "outage", autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (first,))
        second = pid()
        assert second != first
        assert len(asked) == 1
        monkeypatch.setattr(postgresql, "_UNASKED_S", 0.0)
        assert pid() == second
        assert len(asked) == 2
    finally:
        database.disconnect()


def test_what_a_database_that_is_away_or_has_no_connection_left_says(server: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect("postgresql://ostler@127.0.0.1:1/none", connect_timeout=2)
    too_many = psycopg.errors.TooManyConnections("sorry, too many clients already")
    for driver in (refused.value, too_many):
        found = outage(peewee.OperationalError(driver, *driver.args))
        assert found is not None
        assert (found.code, found.reason) == ("UNAVAILABLE", "DATABASE_UNAVAILABLE")
        assert found.metadata["retry_after_s"] == "2"
    found = outage(MaxConnectionsExceeded())
    assert found is not None
    assert found.reason == "DATABASE_UNAVAILABLE"
    full = outage(peewee.OperationalError(psycopg.errors.DiskFull("no space left on device")))
    assert full is not None
    assert (full.code, full.reason) == ("RESOURCE_EXHAUSTED", "DATABASE_FULL")


class _Panic(psycopg.errors.DiskFull):
    """What a session says whose PostgreSQL ends because its log of writes has no room left."""

    __module__ = psycopg.errors.DiskFull.__module__
    diag = types.SimpleNamespace(severity_nonlocalized="PANIC")  # type: ignore[assignment]


def test_a_postgresql_that_ends_for_want_of_room_denies_nothing() -> None:
    """The log may hold the commit already, so the answer must not be that nothing was changed."""
    found = outage(peewee.OperationalError(_Panic("could not write to file: No space left on device")))
    assert found is not None
    assert (found.code, found.reason) == ("UNAVAILABLE", "DATABASE_UNAVAILABLE")


def test_periodic_work_that_meets_an_outage_is_logged_in_one_line_and_a_bug_with_its_traceback() -> None:
    failures = [ZeroDivisionError(), peewee.OperationalError("database is locked")]

    class Work(Periodic):
        def work(self) -> None:
            if failures:
                raise failures.pop()
            raise Stopping

    periodic = Work("measure", 0.01)
    with capture_logs() as lines:
        periodic.start()
        wait_until(lambda: len(lines) == 2)
        periodic.stop()
    away, bug = lines
    event = "periodic work failed; it is tried again"
    assert away == {"log_level": "warning", "event": event, "reason": "DATABASE_UNAVAILABLE", "work": "measure"}
    assert bug == {"log_level": "error", "event": event, "exc_info": True, "work": "measure"}


def test_a_full_disk_under_sqlite_is_told_and_a_bug_is_not_taken_for_it(sqlite_database: str) -> None:
    with transaction():  # on the connection that writes
        _limit_pages(db.execute_sql("PRAGMA page_count").fetchone()[0])
    with pytest.raises(peewee.OperationalError) as caught:
        _create_zones(2000)
    found = outage(caught.value)
    assert found is not None
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "DATABASE_FULL")
    assert Zone.select().count() == 0, "all or nothing"
    with pytest.raises(peewee.OperationalError) as bug:
        db.execute_sql("SELECT no_such_column FROM zone")
    assert outage(bug.value) is None


# The disk of the database is full.
_full = threading.Event()


@workflow("account.full_disk_test")
def _large_steps(run: Run) -> None:
    run.step("first", lambda: _full.set())
    run.step("second", lambda: "x" * 100_000)
    run.step("third", lambda: None)


def test_a_full_disk_under_sqlites_journal_costs_operations_nothing_but_time(
    sqlite_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Semaphore(0)
    record = journal._record

    def limited(
        operation_id: str, attempt: int, step: journal.Step, writes: Sequence[journal.Write]
    ) -> tuple[int, bool]:
        with transaction():  # on the connection that writes
            _limit_pages(db.execute_sql("PRAGMA page_count").fetchone()[0] if _full.is_set() else 1 << 30)
        try:
            return record(operation_id, attempt, step, writes)
        except peewee.OperationalError:
            refused.release()
            raise
        finally:
            with transaction():
                _limit_pages(1 << 30)

    monkeypatch.setattr(journal, "_record", limited)
    with engine_on(sqlite_database, tmp_path) as engine:
        try:
            with transaction():
                account = Account.create(name="a")
                operation = record_operation("account.full_disk_test", account, "alice", {})
            engine.launch(operation)
            assert all(refused.acquire(timeout=60) for _ in range(2))
            assert engine.wait(operation.id, 0).state == OperationState.RUNNING
            _full.clear()
            row = engine.wait(operation.id, 120)
        finally:
            _full.clear()
    assert (row.state, row.error) == (OperationState.SUCCEEDED, "")
    assert [step.name for step in journal.read(operation.id)] == ["first", "second"]


# The disk of PostgreSQL is full once both are set. _tried: how often the body of the first step has worked since.
_begun, _filled = threading.Event(), threading.Event()
_tried: list[str] = []


@workflow("account.full_database_test")
def _large_rows(run: Run) -> None:
    def insert() -> None:
        _begun.set()
        assert _filled.wait(60)
        _tried.append(run.id)
        _create_zones(200, run.id)

    run.step("first", insert)
    run.step("second", lambda: "x" * 100_000)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("disk", ["tables", "wal"])
def test_a_full_disk_under_postgresql_costs_operations_nothing_but_time(tmp_path: Path, disk: str) -> None:
    """PostgreSQL refuses what would need room in its tables. Without room for its log of writes it stops all work, and
    ends; systemd starts it again."""
    need(databases.missing())
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(databases.postgresql_server(small=True))
        assert server.disks is not None
        databases.run_sql(server.url + "postgres", "CREATE DATABASE outage")
        database.connect(server.url + "outage")
        stack.callback(database.disconnect)
        database.migrate()
        engine = stack.enter_context(engine_on(server.url + "outage", tmp_path))
        with transaction():
            operation = record_operation("account.full_database_test", Account.create(name="a"), "alice", {})
        for event in (_begun, _filled):
            event.clear()
        _tried.clear()
        engine.launch(operation)
        assert _begun.wait(30)
        if disk == "tables":
            server.disks.tables.fill()
            told = _refusal()
            assert (told.code, told.reason) == ("RESOURCE_EXHAUSTED", "DATABASE_FULL")
            with database.session():
                assert Zone.select().count() % 100 == 0, "all or nothing"
        else:
            server.fill_wal()
            told = _refusal()
            assert (told.code, told.reason) == ("UNAVAILABLE", "DATABASE_UNAVAILABLE")
        _filled.set()
        end = time.monotonic() + 60
        # While PostgreSQL is away the engine cannot even ask whether the operation is to go on.
        while len(_tried) < (2 if disk == "tables" else 1):
            assert time.monotonic() < end, "the operation did not try again"
            time.sleep(0.05)
        assert _refusal().code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
        server.free()
        row = engine.wait(operation.id, 60)
        assert (row.state, row.error) == (OperationState.SUCCEEDED, "")
        with database.session():
            assert Zone.select().where(Zone.name.startswith(operation.id)).count() == 200


def _limit_pages(pages: int) -> None:
    db.execute_sql(f"PRAGMA max_page_count = {pages}")


def _refusal() -> OstlerError:
    """What a caller is told whose call needs room."""
    for number in range(100):
        try:
            with reported():
                _create_zones(100, f"probe-{number}-")
        except OstlerError as error:
            return error
    raise AssertionError("there is room for everything")


def _create_zones(count: int, prefix: str = "") -> None:
    with transaction():
        for number in range(count):
            Zone.create(name=f"{prefix}{number}-{'x' * 500}")


def test_three_replicas_fit_into_postgresqls_default_of_connections() -> None:
    replica_lock = 1
    assert 3 * (postgresql.MAX_CONNECTIONS + replica_lock) <= 97
