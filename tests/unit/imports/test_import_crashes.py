"""Control is killed at every point of an import, and in the middle of an export; another process goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control.imports import sources
from ostler_control.imports.facts import find_vm
from ostler_control.imports.record import record_import
from ostler_control.models import (
    Host,
    ImportFile,
    ImportSource,
    Operation,
    Passphrase,
    ServiceOffering,
    Vm,
    VmImport,
    Volume,
)
from ostler_control.vmware.clone import list_clones

from tests import databases
from tests.fakes.vcenter import FakeVcenter, vcenter
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import Site, new_site
from tests.unit.control.crashes import are_over, control, kill_at_every_point, names, record
from tests.unit.imports.test_vm_import import MIB, new_source, wanted
from tests.unit.vmware.conftest import make_vmdk, vm_spec

pytestmark = pytest.mark.slow

# As in the crashes of other operations: three a step (inspect, clone, stage, export, drop-clone, convert, unstage-done,
# start, report; undone: delete-volume, delete-clone, unstage, record-failure), the end, and one that is never killed.
POINTS = {"good": 29, "doomed": 32}


def kept_site(state_dir: Path, url: str) -> Site:
    site = new_site(url, state_dir)
    Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
    ServiceOffering.create(name="two", cpus=2, memory_bytes=1 << 30, encrypt_root=True)
    return site


def begin(site: Site, source: ImportSource, name: str) -> Any:
    what = wanted(site, source, name)
    with sources.connect(source, site.keys) as connection:
        vm = find_vm(connection, name)
    return record(lambda: record_import(what, vm, True, "root", site.keys))


def check_source_clean(site: Site, source: ImportSource, server: FakeVcenter) -> None:
    with sources.connect(source, site.keys) as connection:
        assert list_clones(connection) == {}
    assert {lease["state"] for lease in server.leases()} <= {"done", "error"}
    assert site.fleet.staging == {}
    assert VmImport.select().count() == ImportFile.select().count() == 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    state_dir = tmp_path / "site"
    state_dir.mkdir()
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url:
        site = kept_site(state_dir, url)
        yield site
        site.fleet.stop()


def test_killed_at_every_point(site: Site, tmp_path: Path) -> None:
    disk = make_vmdk(tmp_path / "disk.vmdk", MIB, 1)
    group = {kind: names(kind, points) for kind, points in POINTS.items()}
    tmp_path.joinpath("vc").mkdir()
    machines = [vm_spec(name, [disk], on=True) for members in group.values() for name in members]
    with vcenter(tmp_path / "vc", machines) as server:
        source = sources.create(new_source(server), "root", site.keys)
        operations = {kind: [begin(site, source, name) for name in members] for kind, members in group.items()}
        doomed = {row.id for row in Volume.select().where(Volume.name.startswith("doomed"))}
        no = Fault(
            FailedPreconditionError("no", "NO_WAY"),
            before=False,
            times=1000,
            only=lambda request: request.disks[0].target.volume_id in doomed,
        )
        for fake in site.hosts.values():
            fake.fail("ConvertVm", no)
        every = kill_at_every_point(site, operations)
        with control(site, {}):
            wait_until(lambda: are_over(every), 240)
        states = {kind: {Operation.get_by_id(o.id).state for o in members} for kind, members in operations.items()}
        assert states == {"good": {"succeeded"}, "doomed": {"failed"}}
        assert {vm.name for vm in Vm.select()} == set(group["good"])
        assert {vm.state for vm in Vm.select()} == {"running"}
        check_source_clean(site, source, server)
        keys = {row.passphrase_id for row in Volume.select()} | {source.passphrase_id}
        assert {row.id for row in Passphrase.select()} == keys
        assert set(site.fleet.files()) == {row.id for row in Volume.select()}


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
