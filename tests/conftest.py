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
    """The URL of a PostgreSQL server, up to and including the slash before the database's name."""
    if databases.postgresql_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with databases.postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def shared_postgresql_database(postgresql: str) -> str:
    """A migrated database that tests take turns with: emptying it is much faster than making a new one."""
    databases.run_sql(postgresql + "postgres", "CREATE DATABASE shared")
    with databases.bound(postgresql + "shared") as url:
        return url


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[str]:
    """The models on a fresh SQLite file, a session open for the test's thread. Gives the URL."""
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The models on an empty database of each kind, a session open for the test's thread. Gives the URL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    url: str = request.getfixturevalue("shared_postgresql_database")
    databases.empty(url)
    with databases.bound(url, migrate=False):
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def own_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Like fresh_database, for tests that change the schema."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    server: str = request.getfixturevalue("postgresql")
    name = f"t_{uuid.uuid4().hex}"
    databases.run_sql(server + "postgres", f"CREATE DATABASE {name}")
    with databases.bound(server + name) as url:
        yield url
