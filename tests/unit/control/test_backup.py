"""Backup and restore of a control plane on SQLite."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import stat
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, OstlerError
from ostler_control import backup, database, run_lock
from ostler_control.config import ControlConfig
from ostler_control.main import main
from ostler_control.models import Account, Volume

from tests.sites import Site, outcome, site_at_work


@pytest.fixture
def config(tmp_path: Path) -> ControlConfig:
    (tmp_path / "state").mkdir(mode=0o700)
    return ControlConfig(state_dir=tmp_path / "state")


@pytest.fixture
def bound(config: ControlConfig) -> Iterator[ControlConfig]:
    database.connect(config.database)
    database.migrate()
    yield config
    database.disconnect()


def reason(caught: pytest.ExceptionInfo[OstlerError]) -> str:
    return caught.value.reason


def test_backups_taken_while_others_write_are_whole(bound: ControlConfig, tmp_path: Path) -> None:
    """Two accounts are always made in one transaction: a backup with an odd number of them would be torn."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with database.transaction():
                Account.create(name=f"a{number}")
                Account.create(name=f"b{number}")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            backup.create(bound, tmp_path / f"{number}.backup")
    finally:
        stop.set()
        writer.join()
    counts = []
    for number in range(5):
        copy = ControlConfig(state_dir=tmp_path / f"copy{number}")
        backup.restore(copy, tmp_path / f"{number}.backup")
        with closing(sqlite3.connect(copy.database.removeprefix("sqlite:///"))) as connection:
            counts.append(connection.execute("SELECT COUNT(*) FROM account").fetchone()[0])
    assert [count % 2 for count in counts] == [0] * 5
    assert counts == sorted(counts)
    assert counts[-1] > counts[0] >= 0


def test_a_restored_control_plane_knows_its_volumes_and_opens_their_sealed_keys(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    config = ControlConfig(state_dir=state)
    database.connect(config.database)
    database.migrate()
    try:
        with database.session(), site_at_work(config.database, state) as (site, engine):
            assert outcome(engine, site.record(lambda: site.new_vm("web"))) == ("succeeded", "")
            before = site.keys.open(Volume.get()).reveal()
            file = tmp_path / "x.backup"
            manifest = backup.create(config, file)
            _check_sealed(file, before, site)
    finally:
        database.disconnect()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert manifest.migrations == tuple(database.known_migrations())
    with pytest.raises(FailedPreconditionError) as caught:
        backup.restore(config, file)
    assert reason(caught) == "DATABASE_EXISTS"
    backup.restore(config, file, replace=True)
    assert Path(config.database.removeprefix("sqlite:///") + ".before-restore").exists()
    assert not (state / "dbos.sqlite").exists()
    database.connect(config.database)
    try:
        with database.session():
            assert site.keys.open(Volume.get()).reveal() == before
    finally:
        database.disconnect()


def _check_sealed(file: Path, passphrase: bytes, site: Site) -> None:
    with tarfile.open(file) as archive:
        contents = b"".join(member.read() for name in archive.getnames() if (member := archive.extractfile(name)))
    assert passphrase not in contents
    assert (site.state_dir / "kek").read_bytes().split()[-1] not in contents


def test_nothing_is_restored_under_a_running_control_plane(bound: ControlConfig, tmp_path: Path) -> None:
    backup.create(bound, tmp_path / "x")
    with run_lock.alone(bound.state), pytest.raises(FailedPreconditionError) as caught:
        backup.restore(bound, tmp_path / "x", replace=True)
    assert reason(caught) == "RUNS_ALREADY"


@pytest.mark.parametrize("damage", ["text", "truncated", "no database", "not a database", "newer"])
def test_a_damaged_or_newer_backup_changes_nothing(bound: ControlConfig, tmp_path: Path, damage: str) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    backup.create(bound, good)
    match damage:
        case "text":
            bad.write_text("hello")
        case "truncated":
            bad.write_bytes(good.read_bytes()[:-2000])
        case _:
            _rewrite(good, bad, damage)
    copy = ControlConfig(state_dir=tmp_path / "copy")
    with pytest.raises(OstlerError) as caught:
        backup.restore(copy, bad)
    assert reason(caught) == ("DATABASE_TOO_NEW" if damage == "newer" else "BAD_BACKUP")
    assert [path.name for path in copy.state_dir.iterdir()] == [".run.lock"]


def test_a_backup_with_a_wrong_bit_anywhere_is_refused(bound: ControlConfig, tmp_path: Path) -> None:
    """Or restored as it was: the archive's header has bits that mean nothing."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    with database.transaction():
        for number in range(20):
            Account.create(name=f"account-{number}")
    backup.create(bound, good)
    content, whole = good.read_bytes(), 0
    for number, position in enumerate(range(0, len(content), len(content) // 50)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << number % 8
        bad.write_bytes(damaged)
        copy = ControlConfig(state_dir=tmp_path / f"copy{number}")
        with contextlib.suppress(InvalidArgumentError):
            backup.restore(copy, bad)
            assert _tables(copy.state_dir / "ostler.db") == _tables(Path(bound.database.removeprefix("sqlite:///")))
            whole += 1
    assert whole <= 1


def _tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_each_database_that_a_restore_replaces_is_kept(config: ControlConfig, tmp_path: Path) -> None:
    """With its log of writes, which would destroy another one. As when the wrong backup was restored first."""
    file, database_file = tmp_path / "x.backup", config.state_dir / "ostler.db"
    database_file.write_text("first")
    (config.state_dir / "ostler.db-wal").write_text("its log")
    other = ControlConfig(state_dir=tmp_path / "other")
    other.state_dir.mkdir()
    database.connect(other.database)
    database.migrate()
    database.disconnect()
    backup.create(other, file)
    kept = []
    for text in ("first", "second", "third"):
        database_file.write_text(text)
        kept.append(backup.restore(config, file, replace=True).kept)
    assert [path.read_text() for path in kept if path] == ["first", "second", "third"]
    assert sorted(path.name for path in config.state_dir.glob("*-wal")) == ["ostler.db.before-restore-wal"]


def _rewrite(good: Path, bad: Path, damage: str) -> None:
    with tarfile.open(good) as source, tarfile.open(bad, "w:gz") as target:
        for member in source.getmembers():
            content = source.extractfile(member)
            assert content is not None
            data = content.read()
            if member.name == "ostler.sqlite":
                if damage == "no database":
                    continue
                if damage == "not a database":
                    data = b"x" * 10_000
            if member.name == "manifest.json" and damage == "newer":
                data = data.replace(b"0001_first", b"9999_future")
            member.size = len(data)
            target.addfile(member, io.BytesIO(data))


def test_postgresql_has_tools_of_its_own(tmp_path: Path) -> None:
    config = ControlConfig(state_dir=tmp_path, database_url="postgresql://localhost/x")
    with pytest.raises(FailedPreconditionError) as caught:
        backup.create(config, tmp_path / "x")
    assert reason(caught) == "USE_PG_DUMP"


def test_the_commands(bound: ControlConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTLER_CONTROL_STATE_DIR", str(bound.state_dir))
    file = tmp_path / "x.backup"
    made = CliRunner().invoke(main, ["backup", str(file)])
    assert made.exit_code == 0, made.output
    database.disconnect()
    refused = CliRunner().invoke(main, ["restore", str(file)])
    assert refused.exit_code == 1
    assert "--replace" in refused.stderr
    restored = CliRunner().invoke(main, ["restore", str(file), "--replace"])
    assert restored.exit_code == 0, restored.output
    assert "ostler-control check" in restored.output
    assert f"is kept: {bound.state_dir / 'ostler.db.before-restore'}" in restored.output
