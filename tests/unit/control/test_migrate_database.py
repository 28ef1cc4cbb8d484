"""Moving a control plane from SQLite to PostgreSQL."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from functools import partial
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_control import database, migrate_database, run_lock, table_copy
from ostler_control.config import ControlConfig
from ostler_control.main import main
from ostler_control.models import ALL, BaseModel, Event, Operation, Passphrase, Volume
from ostler_control.run_lock import ReplicaLock

from tests import databases
from tests.fakes.working_agent import wait_until
from tests.sites import Site, new_site, outcome, site_at_work
from tests.unit.control.crashes import are_over, control, reached, record


@pytest.fixture
def target(postgresql: str) -> str:
    """The URL of an empty PostgreSQL database."""
    name = f"m_{uuid.uuid4().hex}"
    databases.run_sql(postgresql + "postgres", f"CREATE DATABASE {name}")
    return postgresql + name


@pytest.fixture
def config(tmp_path: Path, target: str) -> ControlConfig:
    (tmp_path / "state").mkdir(mode=0o700)
    return ControlConfig(state_dir=tmp_path / "state", database_url=target)


@pytest.fixture
def filled(config: ControlConfig) -> Site:
    """A state directory on SQLite that a control plane has worked on."""
    url = f"sqlite:///{config.state.database}"
    with databases.bound(url), site_at_work(url, config.state_dir) as (site, engine):
        for name in ("web", "db"):
            assert outcome(engine, site.record(partial(site.new_vm, name))) == ("succeeded", "")
    return site


def reason(config: ControlConfig) -> str:
    with pytest.raises(FailedPreconditionError) as caught:
        migrate_database.migrate_database(config)
    return caught.value.reason


def rows_of(url: str) -> int:
    with psycopg.connect(url) as connection:
        return len(table_copy.used(connection))


def rows_in_order(model: type[BaseModel]) -> list[str]:
    return sorted(str(row) for row in model.select().dicts())


def test_every_row_and_every_passphrase_arrives(filled: Site, config: ControlConfig, target: str) -> None:
    with databases.bound(f"sqlite:///{config.state.database}"):
        before = {model: rows_in_order(model) for model in ALL}
        secrets = {volume.id: filled.keys.open(volume).reveal() for volume in Volume.select()}
    migrated = migrate_database.migrate_database(config)
    assert migrated.passphrases == len(secrets) == 2
    assert not config.state.database.exists()
    assert migrated.source == config.state_dir / "ostler.db.migrated"
    with databases.bound(target, migrate=False):
        assert database.migrate() == []
        after = {model: rows_in_order(model) for model in ALL}
        assert after == before
        assert {volume.id: filled.keys.open(volume).reveal() for volume in Volume.select()} == secrets


def test_operations_under_way_continue_on_postgresql_from_their_last_step(
    tmp_path: Path, config: ControlConfig, target: str
) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db"
    with databases.bound(url):
        site = new_site(url, tmp_path)
        operations = [record(partial(site.new_vm, f"vm{number}")) for number in range(4)]
        # Most have finished a step: a control plane that lost the journal would do it twice.
        with control(site, {operation.id: 3 + number for number, operation in enumerate(operations)}, "state"):
            wait_until(lambda: all(reached(site, operation, "state") for operation in operations), 60)
    migrate_database.migrate_database(config, tmp_path / "fleet.db")
    site.url = target
    with databases.bound(target, migrate=False):
        with psycopg.connect(target) as connection:
            steps = connection.execute(
                "SELECT operation_id, count(*) FROM operation_step GROUP BY operation_id"
            ).fetchall()
        assert len(steps) == 3, "the first was killed in its first step"
        with control(site, {}, "state"):
            wait_until(lambda: are_over(operations), 90)
        assert {(row.state, row.attempt) for row in Operation.select()} == {("succeeded", 2)}
        site.check_whole()
    site.fleet.stop()


def test_a_database_with_rows_is_refused_and_keeps_them(filled: Site, config: ControlConfig, target: str) -> None:
    with databases.bound(target):
        Event.create(type="x", outcome="noticed", actor="a", resource_type="vm", resource_id="1")
    assert reason(config) == "TARGET_NOT_EMPTY"
    assert config.state.database.exists()
    databases.run_sql(target, "DELETE FROM event")
    databases.run_sql(target, "CREATE TABLE strange (id integer)")
    assert rows_of(target) == 0
    databases.run_sql(target, "INSERT INTO strange VALUES (1)")
    assert reason(config) == "TARGET_NOT_EMPTY"
    assert rows_of(target) == 1


def test_nothing_is_migrated_while_a_control_plane_runs(filled: Site, config: ControlConfig, target: str) -> None:
    with run_lock.alone(config.state):
        assert reason(config) == "RUNS_ALREADY"
    lock = ReplicaLock(target, "another")
    assert reason(config) == "RUNS_ALREADY"
    lock.close()
    with run_lock.filling(target), pytest.raises(FailedPreconditionError) as caught:
        ReplicaLock(target, "another")
    assert caught.value.reason == "DATABASE_BEING_FILLED"
    assert rows_of(target) == 0


class _KilledError(BaseException):
    """Stands for a kill: nobody handles it."""


@pytest.mark.parametrize("moment", ["while copying", "before the commit", "after it", "between the renames"])
def test_a_repeat_completes_what_a_kill_broke_off(
    filled: Site, config: ControlConfig, target: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    copy_table, rename = table_copy.copy, migrate_database._rename

    def copy(source: sqlite3.Connection, to: table_copy.Target, table: table_copy.Table) -> table_copy.Content:
        copied.append(table.name)
        if moment == "while copying" and table.name == "volume":
            raise _KilledError
        return copy_table(source, to, table)

    def renaming(path: Path) -> None:
        if moment == "after it" or path == config.state.database:
            raise _KilledError
        rename(path)

    def dying(*_: object) -> int:
        raise _KilledError

    with monkeypatch.context() as patched:
        patched.setattr(table_copy, "copy", copy)
        if moment == "before the commit":
            patched.setattr(migrate_database, "_open_passphrases", dying)
        if moment in ("after it", "between the renames"):
            patched.setattr(migrate_database, "_rename", renaming)
        with pytest.raises(_KilledError):
            migrate_database.migrate_database(config)
        assert (rows_of(target) > 0) == (moment in ("after it", "between the renames"))
        copied.clear()
        patched.setattr(table_copy, "copy", copy_table)
    assert migrate_database.migrate_database(config).passphrases == 2
    assert not config.state.database.exists()
    assert reason(config) == "NO_DATABASE"


def test_a_passphrase_that_does_not_open_stops_the_migration(filled: Site, config: ControlConfig, target: str) -> None:
    with closing(sqlite3.connect(config.state.database)) as connection:
        connection.execute("UPDATE passphrase SET sealed = zeroblob(60) WHERE id = (SELECT MIN(id) FROM passphrase)")
        connection.commit()
    with pytest.raises(FailedPreconditionError) as caught:
        migrate_database.migrate_database(config)
    assert caught.value.reason == "KEYS_NOT_OPENED"
    assert "1 of 2 passphrases do not open: volume " in str(caught.value)
    assert rows_of(target) == 0
    assert config.state.database.exists()


def test_a_text_that_postgresql_cannot_hold_is_named_and_nothing_is_kept(
    filled: Site, config: ControlConfig, target: str
) -> None:
    with closing(sqlite3.connect(config.state.database)) as connection:
        connection.execute("UPDATE event SET message = 'a' || char(0) || 'b'")
        connection.commit()
    with pytest.raises(FailedPreconditionError) as caught:
        migrate_database.migrate_database(config)
    assert caught.value.reason == "COPY_FAILED"
    assert "event" in str(caught.value)
    assert rows_of(target) == 0


def test_a_difference_between_the_two_is_found(
    filled: Site, config: ControlConfig, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_table = table_copy.copy

    def copy(source: sqlite3.Connection, to: table_copy.Target, table: table_copy.Table) -> table_copy.Content:
        content = copy_table(source, to, table)
        if table.name == "vm":
            to.execute("UPDATE vm SET memory_bytes = memory_bytes + 1 WHERE name = 'web'")
        return content

    monkeypatch.setattr(table_copy, "copy", copy)
    with pytest.raises(FailedPreconditionError) as caught:
        migrate_database.migrate_database(config)
    assert caught.value.reason == "COPY_DIFFERS"
    assert " in vm," in str(caught.value)
    assert rows_of(target) == 0


def test_an_unmigrated_file_is_brought_up_to_date_first(config: ControlConfig, target: str) -> None:
    config.state.database.touch()
    assert migrate_database.migrate_database(config).rows == 0
    with databases.bound(target, migrate=False):
        assert database.migrate() == []
        assert Passphrase.select().count() == 0


def test_the_command(filled: Site, config: ControlConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTLER_CONTROL_STATE_DIR", str(config.state_dir))
    refused = CliRunner().invoke(main, ["migrate-database"])
    assert refused.exit_code == 1
    assert "database_url" in refused.stderr
    monkeypatch.setenv("OSTLER_CONTROL_DATABASE_URL", config.database_url)
    done = CliRunner().invoke(main, ["migrate-database"])
    assert done.exit_code == 0, done.output
    assert "opened 2 passphrases" in done.output
    assert "ostler-control check" in done.output


def test_the_target_must_be_postgresql(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError):
        migrate_database.migrate_database(ControlConfig(state_dir=tmp_path))
