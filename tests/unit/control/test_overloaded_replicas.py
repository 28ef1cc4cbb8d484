"""A replica that has too many operations queues the rest; others take them, and none is done twice."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ostler_control.models import Operation

from tests import databases
from tests.crash_runner import EVERY
from tests.fakes.working_agent import wait_until
from tests.sites import Site, new_site
from tests.unit.control.crashes import are_over, control, go_on, reached, record

pytestmark = pytest.mark.slow

COUNT, LOADED_LIMIT, OTHER_LIMIT = 8, 2, 3


@pytest.fixture
def site(postgresql: str, tmp_path: Path) -> Iterator[Site]:
    name = f"loaded_{uuid.uuid4().hex}"
    with databases.bound(databases.new_database(postgresql, name)) as url:
        site = new_site(url, tmp_path)
        yield site
        site.check_whole()
        site.fleet.stop()


@contextlib.contextmanager
def frozen(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Else a replica that has room may take what is recorded before the other one has started."""
    process.send_signal(signal.SIGSTOP)
    yield
    process.send_signal(signal.SIGCONT)


def new_operations(site: Site) -> list[Operation]:
    """Recorded, and launched by nobody: the next process that starts takes them all."""
    return [record(partial(site.new_vm, f"vm{number}")) for number in range(COUNT)]


def standing(site: Site, operations: list[Operation], name: str) -> set[str]:
    return {operation.id for operation in operations if reached(site, operation, name)}


def rows() -> list[Any]:
    return list(Operation.select())


def replica_id(site: Site, name: str) -> str:
    return (site.state_dir / name / "replica_id").read_text()


def test_what_queues_at_a_replica_that_dies_is_done_by_another(site: Site) -> None:
    with control(site, {}, "other", OTHER_LIMIT) as other:
        with frozen(other):
            operations = new_operations(site)
            with control(site, {EVERY: 1}, "loaded", LOADED_LIMIT):
                wait_until(lambda: len(standing(site, operations, "loaded")) == LOADED_LIMIT, 60)
        wait_until(lambda: are_over(operations), 90)
    assert {(row.state, row.replica) for row in rows()} == {("succeeded", replica_id(site, "other"))}
    assert sorted(row.attempt for row in rows()) == [1] * (COUNT - LOADED_LIMIT) + [2] * LOADED_LIMIT


def test_what_queues_at_a_busy_replica_is_taken_by_another_as_far_as_that_has_room(site: Site) -> None:
    with control(site, {EVERY: 1}, "other", OTHER_LIMIT) as other, contextlib.ExitStack() as stack:
        with frozen(other):
            operations = new_operations(site)
            stack.enter_context(control(site, {EVERY: 1}, "loaded", LOADED_LIMIT))
            wait_until(lambda: len(standing(site, operations, "loaded")) == LOADED_LIMIT, 60)
        wait_until(lambda: len(standing(site, operations, "other")) == OTHER_LIMIT, 60)
        taken = standing(site, operations, "other")
        assert taken.isdisjoint(standing(site, operations, "loaded"))
        assert [row.state for row in rows()].count("pending") == COUNT - LOADED_LIMIT - OTHER_LIMIT
        # All are queued here. Those that the other has begun are left to it.
        go_on(site, "loaded")
        wait_until(lambda: are_over([operation for operation in operations if operation.id not in taken]), 60)
        assert {row.id for row in rows() if row.state == "running"} == taken
        go_on(site, "other")
        wait_until(lambda: are_over(operations), 60)
    assert {(row.state, row.attempt) for row in rows()} == {("succeeded", 1)}
    assert {row.id for row in rows() if row.replica == replica_id(site, "other")} == taken
