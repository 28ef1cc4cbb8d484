"""Control is killed at every point of an import, and in the middle of an export; another process goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ostler_control.imports import sources
from ostler_control.imports.facts import find_vm
from ostler_control.imports.record import record_import
from ostler_control.models import (
    ImportFile,
    ImportSource,
    Operation,
    Passphrase,
    Vm,
    Volume,
)

from tests.fakes.vcenter import vcenter
from tests.fakes.working_agent import wait_until
from tests.sites import Site
from tests.unit.control.crashes import are_over, control, names, record
from tests.unit.imports.crashes import check_source_clean, sqlite_site, survive_kills
from tests.unit.imports.vm_imports import MIB, new_source, wanted
from tests.unit.vmware.conftest import make_vmdk, vm_spec

pytestmark = pytest.mark.slow

# As in the crashes of other operations: three a step (inspect, clone, stage, export, drop-clone, convert, unstage-done,
# start, report; undone: delete-volume, delete-clone, unstage, record-failure), the end, and one that is never killed.
POINTS = {"good": 29, "doomed": 32}


def begin(site: Site, source: ImportSource, name: str) -> Any:
    what = wanted(site, source, name)
    with sources.connect(source, site.keys) as connection:
        vm = find_vm(connection, name)
    return record(lambda: record_import(what, vm, True, "root", site.keys))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with sqlite_site(tmp_path) as site:
        yield site


def test_killed_at_every_point(site: Site, tmp_path: Path) -> None:
    disk = make_vmdk(tmp_path / "disk.vmdk", MIB, 1)
    group = {kind: names(kind, points) for kind, points in POINTS.items()}
    tmp_path.joinpath("vc").mkdir()
    machines = [vm_spec(name, [disk], on=True) for members in group.values() for name in members]
    with vcenter(tmp_path / "vc", machines) as server:
        source = sources.create(new_source(server), "root", site.keys)
        operations = {kind: [begin(site, source, name) for name in members] for kind, members in group.items()}
        survive_kills(site, operations, "ConvertVm", lambda request: str(request.disks[0].target.volume_id))
        assert {vm.state for vm in Vm.select()} == {"running"}
        check_source_clean(site, source, server)
        keys = {row.passphrase_id for row in Volume.select()} | {source.passphrase_id}
        assert {row.id for row in Passphrase.select()} == keys


def test_killed_in_the_middle_of_an_export(site: Site, tmp_path: Path) -> None:
    disks = [make_vmdk(tmp_path / f"disk{number}.vmdk", 8 * MIB, number) for number in range(2)]
    tmp_path.joinpath("vc").mkdir()
    with vcenter(tmp_path / "vc", [vm_spec("web", disks)]) as server:
        source = sources.create(new_source(server), "root", site.keys)
        server.faults(lease_timeout=4, bytes_per_sec={"disk-1.vmdk": 40_000})
        operation = begin(site, source, "web")
        with control(site, {}):
            wait_until(lambda: ImportFile.select().count() == 1, 60)
        server.faults(lease_timeout=4)
        with control(site, {}):
            wait_until(lambda: are_over([operation]), 90)
        assert Operation.get_by_id(operation.id).state == "succeeded"
        first, second = server.leases()
        assert (first["state"], second["state"]) == ("error", "done")
        assert (first["files"]["disk-0.vmdk"]["gets"], second["files"]["disk-0.vmdk"]["gets"]) == (1, 0)
        check_source_clean(site, source, server)
