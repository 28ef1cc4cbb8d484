"""Operations that were under way under a release with a journal in DBOS's tables run on after their last step."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control import backup, database
from ostler_control.config import ControlConfig
from ostler_control.database import transaction
from ostler_control.models import Account, Operation, OperationStep, Pool, Volume, new_id, tuples
from ostler_control.operations import Run, journal, old_journal, record_operation, replica_id

from tests import databases
from tests.unit.control import test_operations
from tests.unit.control.test_operations import ended, new_engine

# What the older release wrote: the first operation has finished three steps and was killed in the fourth, the second
# was over.
DUMPS = Path(__file__).parent / "old_journal"
UNDER_WAY, OVER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def write_file(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.executescript((DUMPS / "sqlite.sql").read_text())


def record_operations(replica: str) -> None:
    pool, account = Pool.create(name="p", type="local", scope="host", scope_id=new_id()), Account.create(name="acme")
    for number, operation_id in enumerate((UNDER_WAY, OVER)):
        volume = Volume.create(name=f"v{number}", account=account, pool=pool, size_bytes=1 << 20)
        with transaction():
            record_operation("volume.test", volume, "alice", {}, operation_id=operation_id)
    Operation.update(state="running", attempt=1, replica=replica).execute()
    Operation.update(state="succeeded").where(Operation.id == OVER).execute()
    Volume.update(operation_id="").where(Volume.operation_id == OVER).execute()


def has_run() -> object:
    raise AssertionError("it ran twice")


def run_on(state_dir: Path) -> list[object]:
    """What the operation that was under way saw, and ran."""
    seen: list[object] = []

    @test_operations.body
    def _(run: Run) -> None:
        seen.append(run.attempt)
        seen.append(run.step("choose", has_run))
        seen.append(run.step("nothing", has_run))
        try:
            run.step("fails", has_run)
        except OstlerError as error:
            seen.append(error.reason)
        run.step("hold", lambda: seen.append("held"))
        run.step("last", lambda: None)

    engine = new_engine(state_dir)
    engine.start()
    try:
        assert ended(engine, Operation.get_by_id(UNDER_WAY)).state == "succeeded"
    finally:
        engine.stop()
    assert [step.name for step in journal.read(UNDER_WAY)] == ["choose", "nothing", "fails", "hold"]
    return seen


EXPECTED = [2, {"host": "h1", "ids": [1, "é"]}, None, "ON_FIRE", "held"]


def test_on_sqlite_the_file_is_taken_over_and_removed(sqlite_database: str, tmp_path: Path) -> None:
    record_operations(replica_id(tmp_path))
    file = tmp_path / "dbos.sqlite"
    write_file(file)
    (tmp_path / "dbos.sqlite-shm").touch()
    old_journal.take_over(file)
    assert list(tmp_path.glob("dbos.sqlite*")) == []
    assert set(tuples(OperationStep.select(OperationStep.operation), tuple[str])) == {(UNDER_WAY,)}, (
        "what is over needs no steps"
    )
    old_journal.take_over(file)
    assert run_on(tmp_path) == EXPECTED


def test_a_kill_before_the_file_is_removed_changes_nothing(
    sqlite_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_operations(replica_id(tmp_path))
    file = tmp_path / "dbos.sqlite"
    write_file(file)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            old_journal.take_over(file)
    assert file.exists()
    old_journal.take_over(file)
    assert not file.exists()
    assert run_on(tmp_path) == EXPECTED


def test_on_postgresql_an_operations_steps_are_read_from_the_old_schema(postgresql: str, tmp_path: Path) -> None:
    with databases.bound(databases.new_database(postgresql, "old_journal")) as url:
        record_operations(replica_id(tmp_path))
        with psycopg.connect(url) as connection:
            connection.execute((DUMPS / "postgresql.sql").read_bytes())
        assert run_on(tmp_path) == EXPECTED
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM dbos.operation_outputs").fetchone() == (4,), "it is left"


@pytest.mark.parametrize("content", [b"", b"x" * 10_000])
def test_an_empty_file_has_no_steps_and_a_damaged_one_is_named(
    sqlite_database: str, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "dbos.sqlite"
    file.write_bytes(content)
    if not content:
        old_journal.take_over(file)
        assert not file.exists()
        return
    with pytest.raises(FailedPreconditionError) as refused:
        old_journal.take_over(file)
    assert refused.value.reason == "OLD_JOURNAL_UNREADABLE"
    assert str(file) in refused.value.message
    assert file.exists()


def test_a_backup_that_has_an_old_journal_restores_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    config = ControlConfig(state_dir=state)
    with databases.bound(config.database):
        record_operations(replica_id(state))
    write_file(config.state.old_journal)
    backup.create(config, tmp_path / "x.backup")
    copy = ControlConfig(state_dir=tmp_path / "copy")
    backup.restore(copy, tmp_path / "x.backup")
    with databases.bound(copy.database):
        old_journal.take_over(copy.state.old_journal)
        assert run_on(copy.state_dir) == EXPECTED
    database.disconnect()
    backup.restore(copy, tmp_path / "x.backup", replace=True)
    assert copy.state.old_journal.exists()
