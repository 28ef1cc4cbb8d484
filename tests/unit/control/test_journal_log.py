"""A journal in SQLite: what was committed is durable before anybody goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from ostler_control.operations import journal_log


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'journal'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE step (output TEXT)")
        connection.exec_driver_sql("INSERT INTO step VALUES ('first')")
    yield engine
    engine.dispose()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the disk was synced, as the length; what is in it fails that often before."""
    seen: list[int] = []
    monkeypatch.setattr(os, "fdatasync", seen.append)
    return seen


def write(engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO step VALUES ('next')")


def test_it_writes_ahead(journal: sqlalchemy.Engine) -> None:
    with journal.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_each_change_is_synced_and_reading_syncs_nothing(journal: sqlalchemy.Engine, syncs: list[int]) -> None:
    with journal.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM step").fetchall()
    assert len(syncs) == 0
    write(journal)
    assert len(syncs) == 1
    write(journal)
    assert len(syncs) == 2


def test_a_disk_that_fails_is_waited_for(journal: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [OSError(5, "Input/output error"), OSError(5, "Input/output error")]

    def sync(descriptor: int) -> None:
        if left:
            raise left.pop()

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(journal_log, "_RETRY_S", 0.01)
    write(journal)
    assert left == []
