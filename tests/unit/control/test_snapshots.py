"""Snapshots from request to end, against agents that work in memory, on both databases."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from ostler.types.v1.volume_pb2 import CONSISTENCY_APPLICATION, CONSISTENCY_CRASH, Consistency
from ostler_common.errors import FailedPreconditionError
from ostler_control import snapshots, vms, volumes
from ostler_control.api.convert.volumes import snapshot as convert_snapshot
from ostler_control.caller import Caller, Role
from ostler_control.models import Event, Host, Passphrase, PoolHost, Snapshot, SnapshotConsistency, Volume
from ostler_control.operations import Engine

from tests.fakes.working_agent import Fault, wait_until
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


@pytest.mark.parametrize("kind", ["encrypted", "plain"])
def test_a_snapshot_is_a_copy_under_its_own_key(site: Site, engine: Engine, kind: str) -> None:
    volume = data_volume(site, engine, "data", kind)
    snapshot = new_snapshot(site, engine, volume, "s1")
    assert (snapshot.state, snapshot.online, snapshot.size_bytes) == ("ready", False, 4 * MIB)
    assert snapshot.encrypt_format == {"encrypted": "luks", "plain": "none"}[kind]
    assert file_of(site, snapshot).content == file_of(site, volume).content
    assert bool(snapshot.passphrase_id) == (kind == "encrypted")
    if kind == "encrypted":
        assert snapshot.passphrase_id != volume.passphrase_id
        assert file_of(site, snapshot).passphrase != file_of(site, volume).passphrase
    site.check_whole()
    assert refusal(site, lambda: snapshots.create(snapshots.NewSnapshot(volume, "s1"), "alice")) == "SNAPSHOT_EXISTS"
    assert refusal(site, lambda: snapshots.create(snapshots.NewSnapshot(volume, "?"), "alice")) == "INVALID_NAME"


def test_a_default_name_is_the_volumes_and_the_time(site: Site, engine: Engine) -> None:
    volume = data_volume(site, engine, "d" * 63, "plain")
    names = {new_snapshot(site, engine, volume).name for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("d" * 46 + "-20") and len(name) <= 63 for name in names)


def test_the_host_of_a_running_vm_copies(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h2"))
    root = root_of(vm)
    for fake in site.hosts.values():
        fake.calls.clear()
    snapshot = new_snapshot(site, engine, root, "online", pool=site.pools["local2"])
    assert (snapshot.online, snapshot.pool.name, snapshot.encrypt_format) == (True, "local2", "luks")
    assert [fake.name for fake in site.hosts.values() if "CopyVolume" in fake.calls] == ["h2"]
    wanted = snapshots.NewSnapshot(root, "elsewhere", site.pools["local1"])
    assert refusal(site, lambda: snapshots.create(wanted, "alice")) == "LACKS_POOL"
    site.silence("h2")
    again = snapshots.NewSnapshot(root, "silent")
    assert refusal(site, lambda: snapshots.create(again, "alice")) == "HOST_SILENT"
    site.revive("h2")
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice"))) == OK
    assert new_snapshot(site, engine, root, "offline").online is False


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        ((CONSISTENCY_APPLICATION, ""), ("application", "")),
        ((CONSISTENCY_CRASH, "no agent\x1b[1m"), ("crash", "no agent\\x1b[1m")),
        (None, None),
    ],
)
def test_what_a_snapshot_is_as_good_as_is_recorded(
    site: Site, engine: Engine, said: tuple[Consistency.ValueType, str] | None, recorded: tuple[str, str] | None
) -> None:
    vm = running_vm(site, engine, "frozen", host=site.host("h2"))
    site.hosts["h2"].consistency = said
    snapshot = new_snapshot(site, engine, root_of(vm), "of-frozen")
    found = [(row.consistency, row.reason) for row in SnapshotConsistency.select()]
    assert found == ([recorded] if recorded else [])
    shown = convert_snapshot(snapshot, Caller(Role.ADMIN, "1", "alice"))
    assert (shown.consistency, shown.consistency_reason) == (said[0] if said else 0, recorded[1] if recorded else "")
    assert outcome(engine, site.record(lambda: snapshots.delete(snapshot, "alice"))) == OK
    assert SnapshotConsistency.select().count() == 0


def test_what_cannot_be_copied_is_refused(site: Site, engine: Engine) -> None:
    local = data_volume(site, engine, "local", pool=site.pools["local1"])
    wanted = snapshots.NewSnapshot(local, "far", site.pools["local2"])
    assert refusal(site, lambda: snapshots.create(wanted, "alice")) == "NO_COMMON_HOST"
    Volume.update(state="failed").where(Volume.id == local.id).execute()
    assert refusal(site, lambda: snapshots.create(snapshots.NewSnapshot(local, "s"), "alice")) == "VOLUME_STATE"
    Volume.update(state="ready").where(Volume.id == local.id).execute()
    Host.update(volume_encryption=False).where(Host.name == "h1").execute()
    assert refusal(site, lambda: snapshots.create(snapshots.NewSnapshot(local, "s"), "alice")) == "NO_CAPABLE_HOST"
    Host.update(volume_encryption=True).where(Host.name == "h1").execute()


def test_volume_and_vm_are_busy_meanwhile(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    root = root_of(vm)
    hold = threading.Event()
    fault = site.at(vm.host_id).fail("CopyVolume", Fault(hold=hold))
    operation = site.record(lambda: snapshots.create(snapshots.NewSnapshot(root, "s"), "alice"))
    assert fault.reached.wait(20)
    assert refusal(site, lambda: vms.stop(vm, "alice")) == "RESOURCE_BUSY"
    assert refusal(site, lambda: volumes.grow(root, 1024 * MIB, "alice")) == "RESOURCE_BUSY"
    snapshot: Any = Snapshot.get_by_id(operation.resource_id)
    assert refusal(site, lambda: snapshots.delete(snapshot, "alice")) == "RESOURCE_BUSY"
    assert snapshot.passphrase_id, "the key is kept before there is a file"
    hold.set()
    assert outcome(engine, operation) == OK


@pytest.mark.parametrize("before", [True, False])
def test_a_failed_snapshot_leaves_nothing(site: Site, engine: Engine, before: bool) -> None:
    volume = data_volume(site, engine, "data")
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(FailedPreconditionError("the pool is full", "NO_SPACE"), before=before))
    operation = site.record(lambda: snapshots.create(snapshots.NewSnapshot(volume, "s"), "alice"))
    assert outcome(engine, operation) == ("failed", "NO_SPACE")
    assert Snapshot.select().count() == 0
    assert Passphrase.select().count() == 1
    site.check_whole()


def test_a_failed_snapshot_whose_file_may_exist_stays_to_be_deleted(site: Site, engine: Engine) -> None:
    volume = data_volume(site, engine, "data")
    no = FailedPreconditionError("no", "NO_WAY")
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(no, before=False))
        fake.fail("DeleteVolume", Fault(no))
    operation = site.record(lambda: snapshots.create(snapshots.NewSnapshot(volume, "s"), "alice"))
    assert outcome(engine, operation) == ("failed", "NO_WAY")
    snapshot: Any = Snapshot.get_by_id(operation.resource_id)
    assert (snapshot.state, bool(snapshot.passphrase_id)) == ("failed", True)
    for fake in site.hosts.values():
        fake.faults.clear()
    assert outcome(engine, site.record(lambda: snapshots.delete(snapshot, "alice"))) == OK


def test_an_unencrypted_copy_never_becomes_a_snapshot(site: Site, engine: Engine) -> None:
    volume = data_volume(site, engine, "data")
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(forget_key=True))
    operation = site.record(lambda: snapshots.create(snapshots.NewSnapshot(volume, "s"), "alice"))
    assert outcome(engine, operation) == ("failed", "ENCRYPTION_MISSING")
    assert Snapshot.select().count() == 0
    site.check_whole()


def test_cancelling_leaves_nothing(site: Site, engine: Engine) -> None:
    volume = data_volume(site, engine, "data")
    hold = threading.Event()
    faults = [fake.fail("CopyVolume", Fault(hold=hold)) for fake in site.hosts.values()]
    operation = site.record(lambda: snapshots.create(snapshots.NewSnapshot(volume, "s"), "alice"))
    wait_until(lambda: any(fault.reached.is_set() for fault in faults))
    engine.cancel(operation.id)
    assert outcome(engine, operation) == ("cancelled", "CANCELLED")
    assert Snapshot.select().count() == 0
    site.check_whole()


def test_a_snapshot_outlives_its_volume_and_its_key_is_destroyed_with_it(site: Site, engine: Engine) -> None:
    volume = data_volume(site, engine, "data")
    snapshot = new_snapshot(site, engine, volume, "s")
    assert outcome(engine, site.record(lambda: volumes.delete(volume, "alice"))) == OK
    site.check_whole()
    assert reload(snapshot).volume_id == volume.id
    assert outcome(engine, site.record(lambda: snapshots.delete(snapshot, "alice"))) == OK
    assert Passphrase.select().count() == 0
    destroyed = Event.get(Event.type == "snapshot.key.destroy", Event.resource_id == snapshot.id)
    assert snapshot.passphrase_id in destroyed.message
    assert destroyed.account_id == site.account.id


def test_a_file_that_cannot_be_deleted_keeps_its_key(site: Site, engine: Engine) -> None:
    snapshot = new_snapshot(site, engine, data_volume(site, engine, "data"), "s")
    for fake in site.hosts.values():
        fake.fail("DeleteVolume", Fault(FailedPreconditionError("no", "NO_WAY")))
    assert outcome(engine, site.record(lambda: snapshots.delete(snapshot, "alice"))) == ("failed", "NO_WAY")
    assert reload(snapshot).state == "failed"
    site.check_whole()


def test_a_snapshot_in_a_pool_without_hosts_is_deleted_by_its_row(site: Site, engine: Engine) -> None:
    snapshot = new_snapshot(site, engine, data_volume(site, engine, "data", pool=site.pools["local1"]), "s")
    reach = PoolHost.get(PoolHost.pool == site.pools["local1"])
    PoolHost.update(reachable=False).where(PoolHost.id == reach.id).execute()
    with pytest.raises(FailedPreconditionError) as caught:  # its file would come to light again
        site.record(lambda: snapshots.delete(snapshot, "alice"))
    assert caught.value.reason == "NO_CAPABLE_HOST"
    PoolHost.delete().where(PoolHost.id == reach.id).execute()
    assert outcome(engine, site.record(lambda: snapshots.delete(snapshot, "alice"))) == OK
    assert Snapshot.select().count() == 0
    PoolHost.create(pool=reach.pool, host=reach.host, reachable=True)
    site.fleet.pools[snapshot.pool_id].pop(snapshot.id)
