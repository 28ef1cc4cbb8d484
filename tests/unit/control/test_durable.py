"""Commits of SQLite are durable when their transaction returns, and share the sync of the disk."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ostler_control import database, durable
from ostler_control.database import session, transaction
from ostler_control.models import Zone
from ostler_control.outage import outage
from peewee import IntegrityError, OperationalError

from tests.fakes.working_agent import wait_until


class Disk:
    """Counts syncs, and holds or fails them."""

    def __init__(self) -> None:
        self.syncs = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: OSError | None = None
        self.failing: set[int] = set()  # numbers of syncs
        self.held: dict[int, threading.Event] = {}
        self._lock = threading.Lock()

    def sync(self, descriptor: int) -> None:
        with self._lock:
            self.syncs += 1
            number = self.syncs
        assert self.go_on.wait(20)
        if number in self.held:
            assert self.held[number].wait(20)
        if self.error is not None or number in self.failing:
            raise self.error or OSError(5, "Input/output error")


@pytest.fixture
def disk(sqlite_database: str, monkeypatch: pytest.MonkeyPatch) -> Disk:
    with transaction():
        Zone.create(name="first")
    found = Disk()
    monkeypatch.setattr(os, "fdatasync", found.sync)
    return found


def create(name: str) -> None:
    with transaction():
        Zone.create(name=name)


def test_a_transaction_returns_after_a_sync_that_began_after_its_commit(disk: Disk) -> None:
    disk.go_on.clear()
    with ThreadPoolExecutor(20) as threads:
        first = threads.submit(create, "a")
        wait_until(lambda: disk.syncs == 1)
        others = [threads.submit(create, f"b{number}") for number in range(19)]
        wait_until(lambda: zones() == 21)
        assert not first.done()
        assert not any(other.done() for other in others)
        disk.go_on.set()
        for done in (first, *others):
            done.result(20)
    assert disk.syncs == 2, "one for the first, and one for all that came meanwhile"


def zones() -> int:
    with session():
        return Zone.select().count()


def test_what_changes_nothing_and_what_is_inside_another_waits_for_no_disk(disk: Disk) -> None:
    with transaction():
        Zone.select().count()
    assert disk.syncs == 0
    with transaction():
        create("inner")
        assert disk.syncs == 0
    assert disk.syncs == 1
    with pytest.raises(IntegrityError):
        create("inner")
    assert disk.syncs == 1


def test_a_disk_that_fails_is_an_outage_of_the_database(disk: Disk) -> None:
    disk.error = OSError(5, "Input/output error")
    with pytest.raises(OperationalError, match="disk I/O error") as caught:
        create("a")
    assert outage(caught.value) is not None
    disk.error = None
    create("b")
    assert zones() == 3


def test_all_commits_of_a_failed_sync_fail_whoever_began_it(disk: Disk) -> None:
    disk.go_on.clear()
    with ThreadPoolExecutor(10) as threads:
        first = threads.submit(create, "a")
        wait_until(lambda: disk.syncs == 1)
        others = [threads.submit(create, f"b{number}") for number in range(9)]
        wait_until(lambda: zones() == 11)
        disk.failing = {2}
        disk.go_on.set()
        first.result(20)
        for other in others:
            with pytest.raises(OperationalError, match="disk I/O error"):
                other.result(20)
        threads.submit(create, "c").result(20)
    assert disk.syncs == 3


def test_what_need_not_last_waits_for_no_sync_and_is_covered_by_the_next(disk: Disk) -> None:
    disk.go_on.clear()
    with transaction(lasting=False):
        Zone.create(name="a")
    assert (disk.syncs, zones()) == (0, 2)
    disk.go_on.set()
    create("b")
    assert (disk.syncs, zones()) == (1, 3)


def test_the_log_is_what_is_synced(sqlite_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(durable, "_sync", synced.append)
    create("a")
    assert synced == [sqlite_database.removeprefix("sqlite:///") + "-wal"]
    assert Path(synced[0]).exists()


def test_a_database_without_a_log_needs_none(tmp_path: Path) -> None:
    sync = durable.CommitSync()
    for _ in range(2):
        sync.wait(f"{tmp_path}/x.sqlite")


def test_what_comes_during_each_sync_is_for_the_next(disk: Disk) -> None:
    sync = database._commit_sync
    disk.held = {1: threading.Event(), 2: threading.Event()}
    with ThreadPoolExecutor(12) as threads:
        first = threads.submit(create, "a")
        wait_until(lambda: disk.syncs == 1)
        others = [threads.submit(create, f"b{number}") for number in range(9)]
        wait_until(lambda: len(sync._next.waiting) == 9)
        disk.held[1].set()
        first.result(20)
        wait_until(lambda: disk.syncs == 2)
        late = [threads.submit(create, f"c{number}") for number in range(2)]
        wait_until(lambda: len(sync._next.waiting) == 2)
        assert not any(other.done() for other in others)
        disk.failing = {3}
        disk.held[2].set()
        for other in others:
            other.result(20)
        for one in late:
            with pytest.raises(OperationalError, match="disk I/O error"):
                one.result(20)
    assert disk.syncs == 3
    create("d")
    assert disk.syncs == 4


def test_a_sync_that_a_bug_ends_fails_its_commits_and_no_others(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(durable, "_sync", lambda _: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            create("a")
    create("b")
    assert (disk.syncs, zones()) == (1, 3)
