"""Fixtures that several kinds of test share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew, then read the diff")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server with the template database that fresh ones are copied from."""
    if databases.postgresql_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with databases.postgresql_server() as server:
        databases.run_sql(server + "postgres", f"CREATE DATABASE {databases.TEMPLATE}")
        with databases.bound(server + databases.TEMPLATE):
            pass
        yield server


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[str]:
    """The models on a fresh SQLite file, a session open for the test's thread. Gives the URL."""
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The models on a fresh database of each kind, a session open for the test's thread. Gives the URL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    server: str = request.getfixturevalue("postgresql")
    name = f"t_{uuid.uuid4().hex}"
    databases.run_sql(server + "postgres", f"CREATE DATABASE {name} TEMPLATE {databases.TEMPLATE}")
    try:
        with databases.bound(server + name, migrate=False) as url:
            yield url
    finally:
        databases.run_sql(server + "postgres", f"DROP DATABASE {name} WITH (FORCE)")
