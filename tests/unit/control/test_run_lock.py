"""Who may run under a replica id on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import run_lock
from ostler_control.run_lock import ReplicaLock
from ostler_control.state_dir import StateDir

from tests import databases
from tests.databases import PostgresServer
from tests.fakes.working_agent import wait_until
from tests.needs import need


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this file's own, for it is restarted."""
    need(databases.missing())
    with databases.postgresql_server() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(run_lock, "_ACQUIRE_TIMEOUT_S", 1)
    return server.url + "postgres"


def test_a_second_process_with_the_same_replica_id_is_refused(url: str) -> None:
    first, other = ReplicaLock(url, "a"), ReplicaLock(url, "b")
    with pytest.raises(FailedPreconditionError) as caught:
        ReplicaLock(url, "a")
    assert caught.value.reason == "REPLICA_RUNS_ALREADY"
    first.close()
    ReplicaLock(url, "a").close()
    other.close()


def test_the_id_is_claimed_again_after_postgresql_was_away(server: PostgresServer, url: str) -> None:
    lock = ReplicaLock(url, "a")
    server.stop()
    lock.check()  # nothing can be said while it is away
    server.start()
    lock.check()
    with pytest.raises(FailedPreconditionError):
        ReplicaLock(url, "a")
    lock.close()


def test_who_lost_its_id_to_another_process_hears_of_it_after_a_minute(url: str) -> None:
    clock = 0.0
    lock = ReplicaLock(url, "a", lambda: clock)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ostler-control a'"
        )
    wait_until(lambda: _is_free(url))
    thief = ReplicaLock(url, "a")
    lock.check()
    clock = 59.0
    lock.check()
    clock = 60.0
    with pytest.raises(FailedPreconditionError) as caught:
        lock.check()
    assert caught.value.reason == "REPLICA_RUNS_ALREADY"
    thief.close()
    wait_until(lambda: _is_free(url))
    lock.check()
    with pytest.raises(FailedPreconditionError):
        ReplicaLock(url, "a")
    lock.close()


def _is_free(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT FROM pg_locks WHERE locktype = 'advisory'").fetchone() is None


def test_one_process_runs_on_a_state_directory(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with run_lock.alone(state), pytest.raises(FailedPreconditionError) as caught, run_lock.alone(state):
        raise AssertionError("two at once")
    assert caught.value.reason == "RUNS_ALREADY"
