"""Going back to a snapshot."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_control import snapshots, vms, volumes
from ostler_control.models import Event, Passphrase, Vm, Volume, VolumeFile
from ostler_control.operations import Engine

from tests.fakes.working_agent import Fault
from tests.sites import MIB, Site, outcome
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


def reverted(site: Site, engine: Engine, snapshot: Any) -> Any:
    operation = site.record(lambda: snapshots.revert(snapshot, "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Volume.get_by_id(snapshot.volume_id)


def refused(site: Site, snapshot: Any) -> str:
    return refusal(site, lambda: snapshots.revert(snapshot, "alice", site.keys))


@pytest.mark.parametrize("kind", ["encrypted", "plain"])
def test_content_and_size_are_restored_under_a_new_key(site: Site, engine: Engine, kind: str) -> None:
    volume = data_volume(site, engine, "data", kind)
    snapshot = new_snapshot(site, engine, volume, "s")
    then = file_of(site, volume).content
    file_of(site, volume).content = "written since"
    assert outcome(engine, site.record(lambda: volumes.grow(volume, 8 * MIB, "alice"))) == OK
    now = reverted(site, engine, snapshot)
    assert (file_of(site, now).content, now.size_bytes, now.state) == (then, 4 * MIB, "ready")
    assert (now.format, now.pool, now.encrypt_format) == (volume.format, volume.pool, volume.encrypt_format)
    assert volume.file_id != now.file_id != snapshot.id
    assert volume.file_id not in site.fleet.files(), "the former file is gone"
    if kind == "encrypted":
        assert now.passphrase_id not in (volume.passphrase_id, snapshot.passphrase_id, None)
        destroyed = [row.message for row in Event.select().where(Event.type == "volume.key.destroy")]
        assert any(str(volume.passphrase_id) in message for message in destroyed)
    site.check_whole()
    assert reverted(site, engine, snapshot).file_id != now.file_id, "it may be done again"


def test_a_stopped_vm_starts_with_the_restored_content(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h1"))
    root = root_of(vm)
    snapshot = new_snapshot(site, engine, root, "online", pool=site.pools["local1"])
    then = file_of(site, root).content
    assert refused(site, snapshot) == "VM_RUNNING"
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    Vm.update(power_state="running").where(Vm.id == vm.id).execute()
    assert refused(site, snapshot) == "VM_STATE"
    Vm.update(power_state="stopped").where(Vm.id == vm.id).execute()
    file_of(site, root).content = "written since"
    now = reverted(site, engine, snapshot)
    assert (now.vm_id, now.slot, now.root) == (vm.id, 0, True)
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK
    spec = site.at(reload(vm).host_id).vms[vm.id].spec
    assert [disk.volume.volume_id for disk in spec.disks] == [now.file_id]
    assert file_of(site, now).content == then


def test_a_volume_encrypted_since_stays_so(site: Site, engine: Engine) -> None:
    volume = data_volume(site, engine, "data", "plain")
    snapshot = new_snapshot(site, engine, volume, "s")
    assert outcome(engine, site.record(lambda: volumes.encrypt(volume, "alice", site.keys))) == OK
    now = reverted(site, engine, snapshot)
    assert (now.encrypt_format, snapshot.encrypt_format) == ("luks", "none")
    assert file_of(site, now).content == file_of(site, snapshot).content


@pytest.mark.parametrize("before", [True, False])
def test_a_failed_revert_leaves_the_volume_as_it_is(site: Site, engine: Engine, before: bool) -> None:
    volume = data_volume(site, engine, "data")
    snapshot = new_snapshot(site, engine, volume, "s")
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(FailedPreconditionError("the pool is full", "NO_SPACE"), before=before))
    operation = site.record(lambda: snapshots.revert(snapshot, "alice", site.keys))
    assert outcome(engine, operation) == ("failed", "NO_SPACE")
    assert (reload(volume).file_id, reload(volume).passphrase_id) == (volume.file_id, volume.passphrase_id)
    assert (VolumeFile.select().count(), Passphrase.select().count()) == (0, 2)
    site.check_whole()


def test_a_revert_that_cannot_work_is_refused(site: Site, engine: Engine) -> None:
    volume = data_volume(site, engine, "data")
    snapshot = new_snapshot(site, engine, volume, "s")
    hold = threading.Event()
    faults = [fake.fail("CopyVolume", Fault(hold=hold)) for fake in site.hosts.values()]
    operation = site.record(lambda: snapshots.revert(snapshot, "alice", site.keys))
    assert refused(site, snapshot) == "RESOURCE_BUSY"
    assert refusal(site, lambda: snapshots.delete(snapshot, "alice")) == "RESOURCE_BUSY"
    hold.set()
    assert outcome(engine, operation) == OK
    assert any(fault.reached.is_set() for fault in faults)
    assert outcome(engine, site.record(lambda: volumes.delete(volume, "alice"))) == OK
    assert refused(site, snapshot) == "VOLUME_GONE"
