"""Two creations of one name at once: one succeeds, and the other hears that the name is taken."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from ostler.control.v1 import account_pb2, snapshot_pb2, volume_pb2
from ostler_common.errors import OstlerError
from ostler_control import snapshots, volumes
from ostler_control.api.requests import once
from ostler_control.api.start_operation import start_operation
from ostler_control.database import session
from ostler_control.models import Account, Operation, Request, Snapshot, Volume, new_id
from ostler_control.operations import Engine
from ostler_control.volumes import new_volume
from peewee import IntegrityError

from tests import databases
from tests.sites import MIB, Site, outcome, site_at_work

OK = ("succeeded", "")


@pytest.fixture
def at_work(postgresql: str, tmp_path: Path) -> Iterator[tuple[Site, Engine]]:
    """On PostgreSQL, where transactions run side by side."""
    with (
        databases.bound(databases.new_database(postgresql, f"names_{new_id()[:8]}")) as url,
        site_at_work(url, tmp_path) as found,
    ):
        yield found


def together(module: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads have both made this check before either goes on, the first time."""
    check, both = getattr(module, name), threading.Barrier(2)
    first = threading.local()

    def checked(*given: Any) -> Any:
        found = check(*given)
        if not hasattr(first, "done"):
            first.done = True
            both.wait(20)
        return found

    monkeypatch.setattr(module, name, checked)


def answers(site: Site, make: Callable[[], Operation], request: Callable[[], Message]) -> list[str]:
    """What two callers are told."""
    told: list[str] = []

    def call() -> None:
        with session():
            try:
                start_operation(site.admin(), request(), make)
                told.append("")
            except OstlerError as error:
                told.append(error.reason)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    return sorted(told)


@pytest.mark.parametrize("request_ids", [True, False])
def test_volumes(at_work: tuple[Site, Engine], monkeypatch: pytest.MonkeyPatch, request_ids: bool) -> None:
    site, _ = at_work
    together(new_volume, "check_free_name", monkeypatch)
    wanted = volumes.NewVolume("data", site.account, site.disks["encrypted"], 4 * MIB, site.pools["shared"])
    found = answers(
        site,
        lambda: volumes.create(wanted, "alice", site.keys),
        lambda: volume_pb2.CreateVolumeRequest(name="data", request_id=new_id() if request_ids else ""),
    )
    assert found == ["", "VOLUME_EXISTS"]
    assert Volume.select().where(Volume.name == "data").count() == 1
    assert Operation.select().count() == 1
    assert Request.select().count() == int(request_ids)


def test_snapshots(at_work: tuple[Site, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two volumes, for one is busy with its first snapshot."""
    site, engine = at_work
    rows = []
    for name in ("one", "two"):
        wanted = volumes.NewVolume(name, site.account, site.disks["encrypted"], 4 * MIB, site.pools["shared"])
        operation = site.record(partial(volumes.create, wanted, "alice", site.keys))
        assert outcome(engine, operation) == OK
        rows.append(Volume.get_by_id(operation.resource_id))
    together(importlib.import_module("ostler_control.snapshots.create"), "_free_name", monkeypatch)
    mine, of_thread = iter(rows), threading.local()

    def make() -> Operation:
        if not hasattr(of_thread, "volume"):
            of_thread.volume = next(mine)
        return snapshots.create(snapshots.NewSnapshot(of_thread.volume, "snap"), "alice")

    found = answers(site, make, lambda: snapshot_pb2.CreateSnapshotRequest(name="snap", request_id=new_id()))
    assert found == ["", "SNAPSHOT_EXISTS"]
    assert Snapshot.select().count() == 1


def test_a_conflict_that_stays_is_a_bug_and_leaves_nothing(sqlite_database: str, tmp_path: Path) -> None:
    with site_at_work(sqlite_database, tmp_path) as (site, _):
        Account.create(name="taken")
        request = account_pb2.CreateAccountRequest(name="taken", request_id=new_id())
        with pytest.raises(IntegrityError):
            once(Account, site.admin(), request, lambda: Account.create(name="taken"))
        assert Request.select().count() == 0
