"""Fixtures of the control plane's tests: a fleet of fake hosts with an engine that runs operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from ostler_control import snapshots, vm_backups, vm_snapshots, vms, volumes
from ostler_control.models import (
    Backup,
    Operation,
    Passphrase,
    Snapshot,
    StoreBucket,
    Vm,
    VmSnapshot,
    VmSnapshotDisk,
    Volume,
)
from ostler_control.operations import Engine
from ostler_control.states import UNFINISHED_OPERATIONS

from tests import databases
from tests.fakes.working_agent import wait_until
from tests.sites import Site, outcome, site_at_work

SUCCEEDED = ("succeeded", "")


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    """On SQLite; a module that also runs on PostgreSQL overrides it (see `copies`)."""
    state_dir = tmp_path_factory.mktemp("site")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as working:
        yield working


@pytest.fixture
def engine(working: tuple[Site, Engine]) -> Engine:
    return working[1]


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Iterator[Site]:
    """After every test all faults are cleared, everything is deleted, and nothing may be left."""
    site, engine = working
    yield site
    for fake in site.hosts.values():
        fake.faults.clear()
    wait_until(lambda: not Operation.select().where(Operation.state.in_(UNFINISHED_OPERATIONS)).exists())
    parts = VmSnapshotDisk.select(VmSnapshotDisk.snapshot).where(VmSnapshotDisk.snapshot.is_null(False))
    deletions: list[tuple[Any, Callable[[Any], Operation]]] = [
        *((row, lambda row: vm_snapshots.delete(row, "root")) for row in VmSnapshot.select()),
        *(
            (row, lambda row: snapshots.delete(row, "root"))
            for row in Snapshot.select().where(Snapshot.id.not_in(parts))
        ),
        *(
            (row, lambda row: vm_backups.delete(row, "root"))
            for row in Backup.select().order_by(Backup.create_time.desc())
        ),
        *((row, lambda row: vms.delete(row, "root", force=True)) for row in Vm.select()),
        *((row, lambda row: volumes.delete(row, "root")) for row in Volume.select().where(~Volume.root)),
    ]
    for row, delete in deletions:
        assert outcome(engine, site.record(partial(delete, row))) == SUCCEEDED
    site.check_whole()
    buckets = StoreBucket.select(StoreBucket.passphrase)  # whose rows stay, like those of other stores
    assert (site.fleet.files(), Passphrase.select().where(Passphrase.id.not_in(buckets)).count()) == ({}, 0)
