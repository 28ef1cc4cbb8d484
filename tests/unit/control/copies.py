"""For tests of snapshots and copies: a site on each database, and the rows that they start with."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ostler_common.errors import OstlerError
from ostler_control import snapshots, volumes
from ostler_control.models import Operation, Passphrase, Snapshot, Vm, Volume
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.working_agent import File
from tests.sites import MIB, Site, outcome, site_at_work

OK = ("succeeded", "")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def working(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    state_dir = tmp_path_factory.mktemp("site")
    url = f"sqlite:///{state_dir}/ostler.sqlite"
    if request.param == "postgresql":
        server: str = request.getfixturevalue("postgresql")
        url = databases.new_database(server, f"t_{uuid.uuid4().hex}")
    with databases.bound(url), site_at_work(url, state_dir) as working:
        yield working


def refusal(site: Site, make: Callable[[], Operation]) -> str:
    """The reason for which a request is refused; nothing has changed then."""
    models = (Operation, Volume, Snapshot, Passphrase)
    before = [model.select().count() for model in models]
    with pytest.raises(OstlerError) as caught:
        site.record(make)
    assert [model.select().count() for model in models] == before
    return caught.value.reason


def data_volume(site: Site, engine: Engine, name: str, kind: str = "encrypted", **wanted: Any) -> Any:
    new = volumes.NewVolume(name, site.account, site.disks[kind], **{"size_bytes": 4 * MIB, **wanted})
    operation = site.record(lambda: volumes.create(new, "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Volume.get_by_id(operation.resource_id)


def running_vm(site: Site, engine: Engine, name: str, **wanted: Any) -> Any:
    operation = site.record(lambda: site.new_vm(name, **wanted))
    assert outcome(engine, operation) == OK
    return Vm.get_by_id(operation.resource_id)


def new_snapshot(site: Site, engine: Engine, volume: Any, name: str = "", **wanted: Any) -> Any:
    new = snapshots.NewSnapshot(volume, name, **wanted)
    operation = site.record(lambda: snapshots.create(new, "alice"))
    assert outcome(engine, operation) == OK
    return Snapshot.get_by_id(operation.resource_id)


def root_of(vm: Any) -> Any:
    return Volume.get(Volume.vm_id == vm.id, Volume.root)


def file_of(site: Site, row: Any) -> File:
    return site.fleet.pools[row.pool_id][row.file_id]


def reload(row: Any) -> Any:
    return type(row).get_by_id(row.id)
