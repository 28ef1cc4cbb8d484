"""Control is killed at every point of an import from a KVM host; another process goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_control.imports import kvm_source
from ostler_control.imports.record import record_import
from ostler_control.models import ImportDiskPassphrase, ImportSource, Operation, Passphrase, Vm, VmImport, Volume

from tests.sites import Site
from tests.unit.control.crashes import names, record
from tests.unit.imports.crashes import sqlite_site, survive_kills
from tests.unit.imports.kvm_site import add_vm, new_source, wanted

pytestmark = pytest.mark.slow

# As in the crashes of other operations: three a step (copy, release-source, start, report; undone: two volumes,
# end-remote-copy, record-failure), the end, and one that is never killed.
POINTS = {"good": 17, "doomed": 17}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with sqlite_site(tmp_path) as site:
        yield site


def begin(site: Site, source: ImportSource, name: str) -> Operation:
    remote = add_vm(site, name, running=True)
    vm = kvm_source._source_vm(remote)
    operation: Operation = record(lambda: record_import(wanted(site, source, name), vm, False, "root", site.keys))
    return operation


def test_killed_at_every_point(site: Site) -> None:
    source = kvm_source.create(new_source(), "root", site.keys)
    operations = {kind: [begin(site, source, name) for name in names(kind, points)] for kind, points in POINTS.items()}
    survive_kills(site, operations, "CopyRemoteDisks", lambda request: str(request.disks[0].volume.volume_id))
    assert {vm.state for vm in Vm.select()} == {"running"}
    assert site.fleet.kvm.copies == set()
    assert site.fleet.staging == {}
    assert VmImport.select().count() == ImportDiskPassphrase.select().count() == 0
    keys = {row.passphrase_id for row in Volume.select() if row.passphrase_id} | {source.passphrase_id}
    assert {row.id for row in Passphrase.select()} == keys
