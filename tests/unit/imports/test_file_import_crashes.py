"""Control is killed at every point of an import of files; another process goes on, and the caller sends the rest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import FailedPreconditionError
from ostler_control import volumes
from ostler_control.imports import files
from ostler_control.imports.files import Announced, Machine
from ostler_control.imports.record import record_import
from ostler_control.imports.wanted import FileSource, Wanted
from ostler_control.models import Operation, Pool, ServiceOffering, VmImport, Volume

from tests.fakes.conversion import Staged
from tests.fakes.working_agent import Fault, File, wait_until
from tests.sites import Site
from tests.unit.control.crashes import are_over, control, kill_at_every_point, names, record
from tests.unit.imports.crashes import sqlite_site, survive_kills

pytestmark = pytest.mark.slow

URL = "https://example.org/web.ova"
DISK = bytes(1 << 20)
# Three a step (stage, download, inspect-files, convert, unstage-done, start, report; undone: delete-volume, unstage,
# record-failure), the end, and one that is never killed.
POINTS = {"good": 23, "doomed": 23}


def begin(site: Site, name: str, url: str = URL) -> Any:
    machine = Machine(name, "bios", 1, 1 << 28)
    vm, used = files.of_images(machine, [Announced("disk.raw", len(DISK))], lambda: "")
    wanted = Wanted(
        None,
        "",
        account=site.account,
        offering=ServiceOffering.get(ServiceOffering.name == "two"),
        files=FileSource(used, url=url, archive_bytes=len(DISK)),
    )
    return record(lambda: record_import(wanted, vm, False, "root", site.keys))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with sqlite_site(tmp_path) as site:
        site.fleet.archives[URL] = {"disk.raw": DISK}
        yield site


def test_killed_at_every_point(site: Site) -> None:
    group = {kind: names(kind, points) for kind, points in POINTS.items()}
    operations = {kind: [begin(site, name) for name in members] for kind, members in group.items()}
    survive_kills(site, operations, "ConvertVm", lambda request: str(request.disks[0].target.volume_id))
    assert site.fleet.staging == {}
    assert VmImport.select().count() == 0


def test_a_process_that_dies_while_it_waits_for_files_waits_on(site: Site) -> None:
    operation = begin(site, "web", url="")
    with control(site, {}):
        wait_until(lambda: bool(site.fleet.staging), 60)
    [directory] = site.fleet.staging.values()
    directory["disk1.raw"] = Staged(bytearray(DISK), complete=True)
    with control(site, {}):
        wait_until(lambda: are_over([operation]), 60)
    assert Operation.get_by_id(operation.id).state == "succeeded"
    assert site.fleet.staging == {}


# Three a step (choose, adopt; undone: release, record-failure), the end, and one that is never killed.
ADOPTION_POINTS = {"good": 8, "doomed": 14}


def test_an_adoption_that_is_killed_at_every_point_loses_no_file(site: Site) -> None:
    pool = Pool.get(Pool.name == "shared")
    files = site.fleet.pools.setdefault(pool.id, {})
    group = {kind: names(kind, points) for kind, points in ADOPTION_POINTS.items()}
    found = types_pb2.VolumeInfo(virtual_size_bytes=1 << 20)
    operations = {}
    for kind, members in group.items():
        for name in members:
            files[name] = File(1 << 20, types_pb2.DISK_FORMAT_QCOW2, b"")
        wanted = [volumes.NewAdoption(name, site.account, pool, name, "qcow2") for name in members]
        operations[kind] = [record(partial(volumes.adopt, w, found, "root", site.keys)) for w in wanted]
    no = Fault(
        FailedPreconditionError("no", "NO_WAY"),
        before=False,
        times=1000,
        only=lambda request: request.file_name.startswith("doomed"),
    )
    for fake in site.hosts.values():
        fake.fail("AdoptVolume", no)
    every = kill_at_every_point(site, operations)
    with control(site, {}):
        wait_until(lambda: are_over(every), 240)
    assert {row.name for row in Volume.select()} == set(group["good"])
    assert set(files) == {row.file_id for row in Volume.select()} | set(group["doomed"])
