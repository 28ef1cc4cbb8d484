"""Inside of an operation DBOS waits while the journal's disk is full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from dbos._utils import retriable_sqlite_exception
from ostler_control.operations import full_journal
from sqlalchemy.exc import OperationalError


@pytest.fixture
def full(tmp_path: Path) -> Iterator[sqlalchemy.Connection]:
    """A connection to a journal that has no room for one more page."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'journal'}")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE step (output TEXT)")
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        yield connection
    engine.dispose()


def write(connection: sqlalchemy.Connection) -> OperationalError:
    with pytest.raises(OperationalError) as caught:
        connection.execute(sqlalchemy.text("INSERT INTO step VALUES (:output)"), {"output": "x" * 100_000})
    connection.rollback()
    return caught.value


def test_an_operation_waits_for_space_and_a_caller_is_told(full: sqlalchemy.Connection) -> None:
    assert not retriable_sqlite_exception(write(full))
    with full_journal.waited_for():
        error = write(full)
    assert retriable_sqlite_exception(error)
    assert "database or disk is full" in str(error)
    assert "xxx" not in str(error), "what was to be written is nobody's business"
    assert not retriable_sqlite_exception(write(full))


def test_a_bug_is_not_waited_for(full: sqlalchemy.Connection) -> None:
    with full_journal.waited_for(), pytest.raises(OperationalError) as caught, contextlib.closing(full):
        full.exec_driver_sql("SELECT no_such_column FROM step")
    assert not retriable_sqlite_exception(caught.value)
