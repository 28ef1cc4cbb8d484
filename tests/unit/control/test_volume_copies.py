"""Volumes made of other volumes and of snapshots."""

from __future__ import annotations

from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import snapshots, vms, volumes
from ostler_control.models import DiskOffering, Pool, Volume
from ostler_control.operations import Engine

from tests.fakes.working_agent import Fault
from tests.sites import GIB, MIB, Site, outcome
from tests.unit.control.copies import (
    OK,
    data_volume,
    file_of,
    new_snapshot,
    refusal,
    reload,
    root_of,
    running_vm,
    working,
)

__all__ = ["working"]  # a fixture


def copied(site: Site, engine: Engine, name: str, source: Any, **wanted: Any) -> Any:
    new = volumes.NewCopy(name, site.account, source, **wanted)
    operation = site.record(lambda: volumes.copy(new, "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Volume.get_by_id(operation.resource_id)


def refused(site: Site, name: str, source: Any, **wanted: Any) -> str:
    new = volumes.NewCopy(name, site.account, source, **wanted)
    return refusal(site, lambda: volumes.copy(new, "alice", site.keys))


@pytest.mark.parametrize("kind", ["encrypted", "plain"])
def test_a_volume_from_a_snapshot(site: Site, engine: Engine, kind: str) -> None:
    volume = data_volume(site, engine, "data", kind, pool=site.pools["local2"])
    snapshot = new_snapshot(site, engine, volume, "s")
    new = copied(site, engine, "new", snapshot)
    assert (new.state, new.pool.name, new.disk_offering.name) == ("ready", "local2", kind)
    assert (new.size_bytes, new.format, new.root, new.vm_id) == (4 * MIB, "qcow2", False, "")
    assert new.encrypt_format == {"encrypted": "luks", "plain": "none"}[kind]
    assert file_of(site, new).content == file_of(site, volume).content
    keys = {row.passphrase_id for row in (volume, snapshot, new)}
    assert len(keys) == (3 if kind == "encrypted" else 1)
    site.check_whole()
    larger = copied(site, engine, "larger", snapshot, size_bytes=8 * MIB)
    assert (larger.size_bytes, file_of(site, larger).size_bytes) == (8 * MIB, 8 * MIB)
    assert refused(site, "new", snapshot) == "VOLUME_EXISTS"
    assert refused(site, "small", snapshot, size_bytes=2 * MIB) == "INVALID_SIZE"
    other = site.disks["plain" if kind == "encrypted" else "encrypted"]
    assert refused(site, "mismatch", snapshot, offering=other) == "ENCRYPTION_MISMATCH"
    assert refused(site, "far", snapshot, pool=site.pools["local1"]) == "NO_COMMON_HOST"


def test_the_offering_decides_size_and_layout(site: Site, engine: Engine) -> None:
    snapshot = new_snapshot(site, engine, data_volume(site, engine, "data", "plain"), "s")
    thick = copied(site, engine, "thick", snapshot, offering=site.disks["thick"])
    assert (thick.size_bytes, thick.provisioning, thick.disk_offering.name) == (GIB, "thick", "thick")
    assert refused(site, "thick2", snapshot, offering=site.disks["thick"], size_bytes=2 * GIB) == "INVALID_SIZE"
    Pool.update(available_bytes=GIB - 1).where(Pool.name == "shared").execute()
    wanted = {"offering": site.disks["thick"], "pool": site.pools["shared"]}
    assert refused(site, "full", snapshot, **wanted) == "NO_FEASIBLE_POOL"
    Pool.update(available_bytes=1 << 40).execute()
    tiny: Any = DiskOffering.create(name="tiny", size_bytes=2 * MIB)
    assert refused(site, "tiny", snapshot, offering=tiny) == "INVALID_SIZE"


def test_a_snapshot_whose_volume_is_gone_can_be_copied(site: Site, engine: Engine) -> None:
    volume = data_volume(site, engine, "data")
    snapshot = new_snapshot(site, engine, volume, "s")
    content = file_of(site, volume).content
    assert outcome(engine, site.record(lambda: volumes.delete(volume, "alice"))) == OK
    new = copied(site, engine, "new", snapshot)
    assert (new.disk_offering, new.encrypt_format, file_of(site, new).content) == (None, "luks", content)
    assert reload(snapshot).operation_id == ""


def test_a_copy_of_a_running_vms_disk(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h2"))
    root = root_of(vm)
    for fake in site.hosts.values():
        fake.calls.clear()
    new = copied(site, engine, "new", root, pool=site.pools["local2"])
    assert [fake.name for fake in site.hosts.values() if "CopyVolume" in fake.calls] == ["h2"]
    assert (new.root, new.vm_id, new.encrypt_format) == (False, "", "luks")
    assert file_of(site, new).content == file_of(site, root).content
    assert refused(site, "far", root, pool=site.pools["local1"]) == "LACKS_POOL"
    assert outcome(engine, site.record(lambda: volumes.attach(new, vm, "alice"))) == OK
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    assert copied(site, engine, "offline", root).pool.name == "shared"


def test_a_copy_that_fails_stays_to_be_deleted(site: Site, engine: Engine) -> None:
    snapshot = new_snapshot(site, engine, data_volume(site, engine, "data"), "s")
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(FailedPreconditionError("the pool is full", "NO_SPACE"), before=False))
    new = volumes.NewCopy("new", site.account, snapshot)
    operation = site.record(lambda: volumes.copy(new, "alice", site.keys))
    assert outcome(engine, operation) == ("failed", "NO_SPACE")
    volume = Volume.get_by_id(operation.resource_id)
    assert (volume.state, volume.state_reason) == ("failed", "the pool is full")
    assert volume.id not in site.fleet.files()
    assert refused(site, "again", volume) == "VOLUME_STATE"
    snapshots_left = site.record(lambda: snapshots.delete(snapshot, "alice"))
    assert outcome(engine, snapshots_left) == OK
