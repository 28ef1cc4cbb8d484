"""What is lost with a dead disk or host can be forgotten: by an admin, with its keys, and on the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ostler.control.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control import snapshots, vms, volumes
from ostler_control.api.authorization import TABLE
from ostler_control.api.volumes import VolumeService
from ostler_control.caller import Role
from ostler_control.database import transaction
from ostler_control.hosts import manage
from ostler_control.models import (
    Event,
    Host,
    Operation,
    Passphrase,
    Pool,
    PoolHost,
    Snapshot,
    Vm,
    VmState,
    Volume,
    VolumeFile,
)
from ostler_control.operations import Engine
from ostler_control.pools import manage as manage_pools
from ostler_control.states import UNFINISHED_OPERATIONS
from ostler_control.vms.lost_host import Lost, remove_lost

from tests import databases
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import MIB, Site, outcome, site_at_work
from tests.unit.control import calls

OK = ("succeeded", "")


@pytest.fixture
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    state_dir = tmp_path_factory.mktemp("site")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as working:
        yield working


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Site:
    """On h1: VM "gone" with its disk in h1's own pool, VM "kept" with its disk in a shared one; volume "spare" with a
    snapshot in h1's own pool."""
    site, engine = working

    def run(request: Callable[[], Operation]) -> None:
        assert outcome(engine, site.record(request)) == OK

    h1, local = site.host("h1"), site.pools["local1"]
    run(lambda: site.new_vm("gone", host=h1, pool=local))
    run(lambda: site.new_vm("kept", host=h1, pool=site.pools["shared"]))
    spare = volumes.NewVolume("spare", site.account, site.disks["encrypted"], 4 * MIB, pool=local)
    run(lambda: volumes.create(spare, "alice", site.keys))
    run(lambda: snapshots.create(snapshots.NewSnapshot(Volume.get(Volume.name == "spare"), "before"), "alice"))
    return site


def reason(request: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught, transaction():
        request()
    return caught.value.reason


def forgotten() -> set[tuple[str, str, str]]:
    events = Event.select().where(Event.type.endswith(".forget") | (Event.type == "host.remove"))
    return {(event.type, event.resource_name, event.actor) for event in events}


def test_only_admins_forget() -> None:
    for method in ("VolumeService/ForgetVolume", "SnapshotService/ForgetSnapshot", "HostService/RemoveHost"):
        assert TABLE[f"/ostler.control.v1.{method}"] == {Role.ADMIN}


def test_a_lost_host_takes_with_it_what_only_it_had_and_nothing_else(site: Site, working: tuple[Site, Engine]) -> None:
    h1 = site.host("h1")
    assert reason(lambda: remove_lost(h1, "root")) == "HOST_UP"
    site.silence("h1")
    h1 = site.host("h1")
    with pytest.raises(FailedPreconditionError, match="remove --lost h1") as refused:  # not: stop them, nor delete them
        manage.remove(h1, "root")
    assert refused.value.reason == "HOST_HAS_VMS"
    assert reason(lambda: volumes.delete(Volume.get(Volume.name == "spare"), "root")) == "NO_CAPABLE_HOST"
    assert reason(lambda: vms.delete(Vm.get(Vm.name == "gone"), "root", force=True)) == "HOST_SILENT"

    root = Volume.get((Volume.vm_id == Vm.get(Vm.name == "gone").id) & Volume.root)
    expected = Lost(("gone",), tuple(sorted([root.name, "spare"])), ("before",), ("kept",))
    keys = Passphrase.select().count()
    assert remove_lost(h1, "root", validate_only=True) == expected
    assert (Volume.select().count(), Passphrase.select().count()) == (3, keys)

    assert remove_lost(h1, "root") == expected
    assert [vm.name for vm in Vm.select()] == ["kept"]
    assert [volume.vm_id for volume in Volume.select()] == [Vm.get().id]
    assert (Snapshot.select().count(), Passphrase.select().count()) == (0, 1), "the keys are destroyed"
    assert not Host.select().where(Host.name == "h1").exists()
    assert not Pool.select().where(Pool.name == "local1").exists()
    assert forgotten() == {
        ("vm.forget", "gone", "root"),
        ("volume.forget", root.name, "root"),
        ("volume.forget", "spare", "root"),
        ("snapshot.forget", "before", "root"),
        ("host.remove", "h1", "root"),
    }
    assert "lost VMs: gone" in Event.get(Event.type == "host.remove").message

    engine = working[1]
    assert Vm.get().state == VmState.STOPPED
    assert outcome(engine, site.record(lambda: vms.start(Vm.get(), "alice"))) == OK
    assert Host.get(Host.id == Vm.get().host_id).name in ("h2", "h3")


def test_a_volume_of_a_lost_pool_is_forgotten_while_its_host_is_up(site: Site, working: tuple[Site, Engine]) -> None:
    spare = Volume.get(Volume.name == "spare")
    assert reason(lambda: volumes.forget(spare, "root")) == "POOL_REACHED"
    PoolHost.update(reachable=False, reason="the disk is gone").where(PoolHost.pool == spare.pool_id).execute()
    root = Volume.get((Volume.vm_id == Vm.get(Vm.name == "gone").id) & Volume.root)
    assert reason(lambda: volumes.forget(root, "root")) == "VM_STATE", "its VM runs"
    with transaction():
        [lost] = volumes.forget(spare, "root", validate_only=True)
    assert (lost.name, Volume.select().count()) == ("before", 3)
    service = VolumeService(working[1].agents, site.keys, site.state_dir)
    request = volume_pb2.ForgetVolumeRequest(volume="spare")
    answer = service.ForgetVolume(request, calls.context(site.admin()))
    assert (answer.volume.name, list(answer.lost_snapshots)) == ("spare", ["before"])
    assert not Passphrase.select().where(Passphrase.bound_id == spare.id).exists()
    actor = Event.get(Event.type == "volume.forget").actor
    assert forgotten() == {("volume.forget", "spare", actor), ("snapshot.forget", "before", actor)}
    assert actor.endswith("root")


def test_a_lost_pool_can_be_emptied_and_deleted(site: Site, working: tuple[Site, Engine]) -> None:
    """Its volume was just moved away when the disk died: a snapshot and the former file are left."""
    spare, before = Volume.get(Volume.name == "spare"), Snapshot.get(Snapshot.name == "before")
    lost = before.pool
    site.hosts["h1"].fail("DeleteVolume", Fault(FailedPreconditionError("no disk", "NO_DISK"), times=1000))
    moved = site.record(lambda: volumes.migrate(spare, site.pools["shared"], "alice", site.keys))
    assert outcome(working[1], moved) == ("failed", "OLD_FILE_NOT_REMOVED")
    assert reason(lambda: snapshots.forget(before, "root")) == "POOL_REACHED"
    PoolHost.update(reachable=False, reason="the disk is gone").where(PoolHost.pool == lost).execute()
    assert outcome(working[1], site.record(lambda: vms.stop(Vm.get(Vm.name == "gone"), "alice", force=True))) == OK
    with transaction():
        volumes.forget(Volume.get((Volume.pool == lost) & Volume.root), "root")
        snapshots.forget(before, "root", validate_only=True)
    assert reason(lambda: manage_pools.delete(working[1].agents, lost, "root")) == "POOL_HAS_SNAPSHOTS"
    with transaction():
        snapshots.forget(before, "root")
    wait_until(lambda: not Operation.select().where(Operation.state.in_(UNFINISHED_OPERATIONS)).exists())
    assert VolumeFile.select().where(VolumeFile.pool == lost).count() == 1
    manage_pools.delete(working[1].agents, lost, "root")
    assert (VolumeFile.select().count(), Pool.select().where(Pool.id == lost.id).count()) == (0, 0)
    kept = {row.passphrase_id for row in Volume.select()}
    assert {row.id for row in Passphrase.select()} == kept
