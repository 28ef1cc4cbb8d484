from __future__ import annotations

import threading
from pathlib import Path

import peewee
import pytest
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_control import database
from ostler_control.models import ALL, Zone, db
from playhouse.migrations import Runner

from tests import databases

_MIGRATIONS = Path(database.__file__).parent / "migrations"
_SQLITE_SCHEMA = "SELECT type, name, sql FROM sqlite_master WHERE tbl_name <> 'schema_migration' ORDER BY 1, 2"
_COLUMNS = """
    SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'schema_migration' ORDER BY 1, 3
"""
_INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'schema_migration' ORDER BY 1
"""
_CONSTRAINTS = """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid <> 'schema_migration'::regclass ORDER BY 1
"""


def _schema() -> list[list[tuple[object, ...]]]:
    queries = [_SQLITE_SCHEMA] if database.is_sqlite() else [_COLUMNS, _INDEXES, _CONSTRAINTS]
    return [db.execute_sql(query).fetchall() for query in queries]


def test_migrations_make_exactly_the_schema_that_the_models_describe(own_database: str) -> None:
    migrated = _schema()
    db.drop_tables(ALL)
    assert _schema() != migrated
    db.create_tables(ALL)
    assert _schema() == migrated


def test_migrating_again_does_nothing(fresh_database: str) -> None:
    assert database.migrate() == []


def test_two_processes_may_migrate_at_once(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        applied: list[list[str]] = []
        threads = [threading.Thread(target=lambda: applied.append(database.migrate())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(names) for names in sorted(applied, key=len)] == [0, 0, 0, len(list(_MIGRATIONS.glob("0*.py")))]


def test_fat_provisioning_becomes_thick(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0001_first")
            for name, provisioning in (("old", "fat"), ("other", "sparse")):
                db.execute_sql(
                    "INSERT INTO disk_offering (id, create_time, name, size_bytes, encrypt, provisioning, format) "
                    "VALUES (?, '2026-01-01', ?, 0, 0, ?, 'raw')",
                    (name, name, provisioning),
                )
        database.migrate()
        with database.session():
            rows = db.execute_sql("SELECT name, provisioning FROM disk_offering ORDER BY name").fetchall()
        assert rows == [("old", "thick"), ("other", "sparse")]


def test_settings_keep_their_values_when_they_get_scopes(tmp_path: Path) -> None:
    with databases.bound(f"sqlite:///{tmp_path}/x.sqlite", migrate=False):
        with database.session():
            Runner(db.obj, str(_MIGRATIONS)).up("0001_first")
            for row_id, cluster_id, value in (("a", "", "30"), ("b", "c1", "5")):
                db.execute_sql(
                    "INSERT INTO setting_value (id, create_time, name, cluster_id, value) "
                    "VALUES (?, '2026-01-01', 'vm.stop.timeout', ?, ?)",
                    (row_id, cluster_id, value),
                )
        database.migrate()
        with database.session():
            rows = db.execute_sql("SELECT id, name, scope, scope_id, value FROM setting_value ORDER BY id").fetchall()
        assert rows == [
            ("a", "vm.stop.timeout", "global", "", "30"),
            ("b", "vm.stop.timeout", "cluster", "c1", "5"),
        ]


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
        assert pragmas == {"foreign_keys": 1, "synchronous": 2, "journal_mode": "wal"}
    with pytest.raises(peewee.IntegrityError):
        db.execute_sql(
            "INSERT INTO pool_host (id, create_time, pool_id, host_id, reachable, reason) "
            "VALUES ('x', '2030-01-01', 'no', 'no', false, '')"
        )


def test_another_kind_of_url_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="sqlite:///"):
        database.connect("mysql://x")
