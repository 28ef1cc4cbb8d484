"""A volume's file that somebody on a shared pool has replaced is noticed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ostler.types.v1 import volume_pb2
from ostler_control import volumes
from ostler_control.models import Event, Volume
from ostler_control.operations import Engine
from ostler_control.volumes.read import read_file

from tests import databases
from tests.sites import MIB, Site, outcome, site_at_work


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    state_dir = tmp_path_factory.mktemp("site")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as working:
        yield working


@pytest.mark.parametrize("kind", ["encrypted", "plain"])
def test_a_header_that_contradicts_the_database_is_an_event(working: tuple[Site, Engine], kind: str) -> None:
    site, engine = working
    new = volumes.NewVolume(kind, site.account, site.disks[kind], 4 * MIB, pool=site.pools["shared"])
    created = site.record(lambda: volumes.create(new, "alice", site.keys))
    assert outcome(engine, created) == ("succeeded", "")
    volume = Volume.get(Volume.name == kind)
    mismatches = Event.select().where((Event.type == "volume.header-mismatch") & (Event.resource_id == volume.id))
    read_file(volume, engine.agents)
    assert not mismatches.exists()

    file = site.fleet.pools[volume.pool_id][volume.file_id]
    file.passphrase = b"" if kind == "encrypted" else b"of an attacker"
    read_file(volume, engine.agents)
    assert "replaced" in mismatches.get().message

    file.passphrase = site.keys.open(volume).reveal() if kind == "encrypted" else b""
    file.format = volume_pb2.DISK_FORMAT_RAW
    read_file(volume, engine.agents)
    assert mismatches.count() == 2
