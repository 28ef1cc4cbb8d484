"""Snapshots of VMs from request to end, against agents that work in memory, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ostler.types.v1 import vm_pb2
from ostler.types.v1.volume_pb2 import CONSISTENCY_APPLICATION
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.hypervisors import Function
from ostler_control import settings, snapshots, vm_snapshots, vms, volumes
from ostler_control.api.convert.vm_snapshots import vm_snapshot as shown
from ostler_control.api.convert.volumes import snapshot as shown_disk
from ostler_control.hosts import cpus
from ostler_control.models import (
    Event,
    Host,
    Passphrase,
    Pool,
    Snapshot,
    Vm,
    VmSnapshot,
    VmSnapshotDisk,
    VmSnapshotMemory,
    Volume,
)
from ostler_control.operations import Engine
from ostler_control.pools import manage as pools
from ostler_control.volumes.forget import forget_snapshot

from tests.fakes.working_agent import Fault
from tests.sites import Site, outcome
from tests.unit.control.copies import OK, data_volume, file_of, refusal, reload, running_vm, working

__all__ = ["working"]  # a fixture
NO = FailedPreconditionError("no", "NO_WAY")


def vm_with_data(site: Site, engine: Engine, kind: str = "encrypted") -> Any:
    """A running VM with an encrypted root disk and a data disk of that kind in slot 1."""
    data = data_volume(site, engine, "web-data", kind)
    vm = running_vm(site, engine, "web")
    assert outcome(engine, site.record(lambda: volumes.attach(data, vm, "alice"))) == OK
    return reload(vm)


def stop(site: Site, engine: Engine, vm: Any) -> None:
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice", force=True))) == OK


def taking(site: Site, vm: Any, name: str = "") -> Any:
    return lambda: vm_snapshots.create(vm_snapshots.NewVmSnapshot(vm, name), "alice", site.keys)


def take(site: Site, engine: Engine, vm: Any, name: str = "") -> Any:
    operation = site.record(taking(site, vm, name))
    assert outcome(engine, operation) == OK
    return VmSnapshot.get_by_id(operation.resource_id)


def reverting(site: Site, row: Any) -> Any:
    return lambda: vm_snapshots.revert(row, "alice", site.keys)


def disks(row: Any) -> list[Any]:
    return list(VmSnapshotDisk.select().where(VmSnapshotDisk.vm_snapshot == row).order_by(VmSnapshotDisk.slot))


def refused(site: Site, make: Any) -> OstlerError:
    with pytest.raises(OstlerError) as caught:
        site.record(make)
    return caught.value


@pytest.mark.parametrize("kind", ["encrypted", "plain"])
def test_all_disks_of_a_running_vm_are_of_one_moment(site: Site, engine: Engine, kind: str) -> None:
    vm = vm_with_data(site, engine, kind)
    for fake in site.hosts.values():
        fake.calls.clear()
        fake.consistency = (CONSISTENCY_APPLICATION, "")
    row = take(site, engine, vm, "before")
    assert (row.state, row.online, row.vm_name) == ("ready", True, "web")
    calls = {fake.name: fake.calls.count("CopyDisks") for fake in site.hosts.values()}
    assert calls == {**dict.fromkeys(calls, 0), vm.host.name: 1}, "one job, by the VM's host"
    root, data = disks(row)
    assert [(disk.slot, disk.root, disk.snapshot.name) for disk in (root, data)] == [
        (0, True, "before-root"),
        (1, False, "before-data-1"),
    ]
    for disk in (root, data):
        volume = Volume.get_by_id(disk.volume_id)
        assert (disk.snapshot.state, disk.snapshot.pool_id) == ("ready", volume.pool_id)
        assert file_of(site, disk.snapshot).content == file_of(site, volume).content
        assert disk.snapshot.encrypt_format == volume.encrypt_format
        if volume.passphrase_id:
            assert file_of(site, disk.snapshot).passphrase not in (b"", file_of(site, volume).passphrase)
    message = shown(row, site.admin())
    assert (message.consistency, [disk.volume_name for disk in message.disks]) == (
        CONSISTENCY_APPLICATION,
        [Volume.get_by_id(root.volume_id).name, "web-data"],
    )
    assert shown_disk(data.snapshot, site.admin()).vm_snapshot_name == "before"
    site.check_whole()


def test_a_stopped_vm_has_snapshots_named_by_it_and_the_time(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    stop(site, engine, vm)
    first, second = take(site, engine, vm), take(site, engine, vm)
    assert (first.online, first.name[:6], first.name != second.name) == (False, "web-20", True)
    assert refusal(site, taking(site, vm, first.name)) == "VM_SNAPSHOT_EXISTS"
    assert refusal(site, taking(site, vm, "?")) == "INVALID_NAME"


def test_what_cannot_be_taken_is_refused(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    host = Host.get_by_id(vm.host_id)
    functions = set(host.functions.split(",")) - {Function.ONLINE_BACKUP}
    Host.update(functions=",".join(functions)).where(Host.id == host.id).execute()
    assert refusal(site, taking(site, vm)) == "FUNCTION_NOT_SUPPORTED"
    Host.update(functions=host.functions, volume_encryption=False).where(Host.id == host.id).execute()
    assert refusal(site, taking(site, vm)) == "LACKS_VOLUME_ENCRYPTION"
    Host.update(volume_encryption=True).where(Host.id == host.id).execute()
    site.silence(host.name)
    assert refusal(site, taking(site, vm)) == "HOST_SILENT"
    site.revive(host.name)


@pytest.fixture
def setting() -> Iterator[Callable[[str, str], None]]:
    """Changes a setting for the test."""
    changed: list[str] = []

    def change(name: str, value: str) -> None:
        changed.append(name)
        settings.change(name, value, "root")

    yield change
    for name in changed:
        settings.reset(name, "root")


def test_a_vm_has_as_many_snapshots_as_the_settings_allow(
    site: Site, engine: Engine, setting: Callable[[str, str], None]
) -> None:
    vm = vm_with_data(site, engine)
    setting("vm.snapshots.max", "1")
    take(site, engine, vm, "only")
    assert "has 1 snapshots, and 1 is the most" in str(refused(site, taking(site, vm)))
    assert refusal(site, taking(site, vm)) == "TOO_MANY_VM_SNAPSHOTS"


def test_each_disk_counts_in_the_quota(site: Site, engine: Engine, setting: Callable[[str, str], None]) -> None:
    vm = vm_with_data(site, engine)
    setting("quota.snapshots", "3")
    take(site, engine, vm)
    assert refusal(site, taking(site, vm)) == "QUOTA_EXCEEDED"


@pytest.mark.parametrize("before", [True, False])
def test_a_failed_one_leaves_nothing(site: Site, engine: Engine, before: bool) -> None:
    vm = vm_with_data(site, engine)
    keys = Passphrase.select().count()
    site.at(vm.host_id).fail("CopyDisks", Fault(FailedPreconditionError("the pool is full", "NO_SPACE"), before=before))
    assert outcome(engine, site.record(taking(site, vm))) == ("failed", "NO_SPACE")
    counts = (VmSnapshot, VmSnapshotDisk, Snapshot)
    assert [model.select().count() for model in counts] == [0, 0, 0]
    assert Passphrase.select().count() == keys
    site.check_whole()


def test_a_failed_one_whose_files_may_exist_stays_to_be_deleted(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    fake = site.at(vm.host_id)
    fake.fail("CopyDisks", Fault(NO, before=False))
    fake.fail("DeleteVolume", Fault(NO))
    operation = site.record(taking(site, vm))
    assert outcome(engine, operation) == ("failed", "NO_WAY")
    row: Any = VmSnapshot.get_by_id(operation.resource_id)
    assert (row.state, [disk.snapshot.state for disk in disks(row)]) == ("failed", ["failed", "failed"])
    fake.faults.clear()
    stop(site, engine, vm)
    assert refusal(site, reverting(site, row)) == "SNAPSHOT_STATE"
    assert outcome(engine, site.record(lambda: vm_snapshots.delete(row, "alice"))) == OK


def test_the_vm_and_its_disks_are_busy_meanwhile(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    hold = threading.Event()
    fault = site.at(vm.host_id).fail("CopyDisks", Fault(hold=hold))
    operation = site.record(taking(site, vm, "slow"))
    assert fault.reached.wait(20)
    row = VmSnapshot.get_by_id(operation.resource_id)
    assert refusal(site, lambda: vms.stop(vm, "alice")) == "RESOURCE_BUSY"
    assert refusal(site, lambda: snapshots.delete(disks(row)[0].snapshot, "alice")) == "RESOURCE_BUSY"
    busy = refused(site, lambda: vm_snapshots.delete(row, "alice"))
    assert (busy.reason, str(busy)[:28]) == ("RESOURCE_BUSY", "vm snapshot slow is busy wit")
    hold.set()
    assert outcome(engine, operation) == OK


def test_a_stopped_vm_gets_all_its_disks_back(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine, "plain")
    row = take(site, engine, vm, "before")
    assert refusal(site, reverting(site, row)) == "VM_RUNNING"
    stop(site, engine, vm)
    then = [file_of(site, disk.snapshot).content for disk in disks(row)]
    mine = [Volume.get_by_id(disk.volume_id) for disk in disks(row)]
    for volume in mine:
        file_of(site, volume).content = "written since"
    assert outcome(engine, site.record(reverting(site, row))) == OK
    now = [reload(volume) for volume in mine]
    assert [file_of(site, volume).content for volume in now] == then
    assert all(new.file_id != old.file_id for new, old in zip(now, mine, strict=True))
    assert [volume.encrypt_format for volume in now] == ["luks", "none"]
    assert now[0].passphrase_id not in (mine[0].passphrase_id, disks(row)[0].snapshot.passphrase_id)
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK
    site.check_whole()


def test_no_disk_is_reverted_unless_all_are(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    row = take(site, engine, vm)
    stop(site, engine, vm)
    before = {disk.volume_id: Volume.get_by_id(disk.volume_id).file_id for disk in disks(row)}
    data = disks(row)[1].snapshot_id
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(NO, before=False, only=lambda request: request.source.volume_id == data))
    assert outcome(engine, site.record(reverting(site, row))) == ("failed", "NO_WAY")
    assert {volume_id: Volume.get_by_id(volume_id).file_id for volume_id in before} == before
    site.check_whole()


def test_other_disks_than_then_are_named(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    row = take(site, engine, vm, "before")
    stop(site, engine, vm)
    data, more = Volume.get(Volume.name == "web-data"), data_volume(site, engine, "more")
    assert outcome(engine, site.record(lambda: volumes.attach(more, vm, "alice"))) == OK
    assert outcome(engine, site.record(lambda: volumes.detach(data, "alice"))) == OK
    error = refused(site, reverting(site, row))
    assert error.reason == "DISKS_CHANGED"
    assert "have changed since snapshot before: more was attached, web-data was detached;" in str(error)
    assert outcome(engine, site.record(lambda: volumes.delete(data, "alice"))) == OK
    assert "web-data was deleted" in str(refused(site, reverting(site, row)))
    assert outcome(engine, site.record(lambda: vms.delete(vm, "alice", force=True))) == OK
    assert refusal(site, reverting(site, row)) == "VM_GONE"


def test_one_disk_goes_back_alone_but_is_not_deleted_alone(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    row = take(site, engine, vm, "before")
    stop(site, engine, vm)
    one = disks(row)[1].snapshot
    assert refusal(site, lambda: snapshots.delete(one, "alice")) == "PART_OF_VM_SNAPSHOT"
    assert outcome(engine, site.record(lambda: snapshots.revert(one, "alice", site.keys))) == OK


def test_a_disk_that_was_lost_with_its_pool_is_missed(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    row = take(site, engine, vm, "before")
    stop(site, engine, vm)
    lost = disks(row)[1].snapshot
    forget_snapshot(lost, "root")
    site.fleet.pools[lost.pool_id].pop(lost.id)
    assert [disk.snapshot_id is None for disk in disks(row)] == [False, True]
    assert [bool(disk.snapshot_name) for disk in shown(row, site.admin()).disks] == [True, False]
    assert refusal(site, reverting(site, row)) == "SNAPSHOT_LOST"
    assert outcome(engine, site.record(lambda: vm_snapshots.delete(row, "alice"))) == OK


def test_keys_are_destroyed_with_the_files(site: Site, engine: Engine) -> None:
    row = take(site, engine, vm_with_data(site, engine))
    ids, keys = zip(*((disk.snapshot_id, disk.snapshot.passphrase_id) for disk in disks(row)), strict=True)
    for fake in site.hosts.values():
        fake.fail("DeleteVolume", Fault(NO, only=lambda request: request.volume.volume_id == ids[1]))
    assert outcome(engine, site.record(lambda: vm_snapshots.delete(row, "alice"))) == ("failed", "NO_WAY")
    assert (reload(row).state, Passphrase.select().where(Passphrase.id.in_(keys)).count()) == ("failed", 2)
    for fake in site.hosts.values():
        fake.faults.clear()
    assert outcome(engine, site.record(lambda: vm_snapshots.delete(row, "alice"))) == OK
    assert Passphrase.select().where(Passphrase.id.in_(keys)).count() == 0
    destroyed = Event.select().where(Event.type == "snapshot.key.destroy", Event.resource_id.in_(ids))
    assert destroyed.count() == 2


# -- memory


def take_with_memory(site: Site, engine: Engine, vm: Any, name: str = "lively") -> Any:
    wanted = vm_snapshots.NewVmSnapshot(vm, name, memory=True)
    operation = site.record(lambda: vm_snapshots.create(wanted, "alice", site.keys))
    assert outcome(engine, operation) == OK
    return VmSnapshot.get_by_id(operation.resource_id)


def memory_of(row: Any) -> Any:
    return VmSnapshotMemory.get(VmSnapshotMemory.vm_snapshot == row)


def machine(site: Site, vm: Any) -> Any:
    return site.hosts[Host.get_by_id(reload(vm).host_id).name].vms[vm.id]


@pytest.mark.parametrize("kind", ["encrypted", "plain"])
def test_memory_is_kept_encrypted_and_the_guest_continues_from_it(site: Site, engine: Engine, kind: str) -> None:
    vm = vm_with_data(site, engine, kind)
    row = take_with_memory(site, engine, vm)
    kept = memory_of(row)
    root = Volume.get((Volume.vm_id == vm.id) & Volume.root)
    assert (kept.pool_id, kept.size_bytes, kept.encrypt_format) == (root.pool_id, vm.memory_bytes, "luks")
    assert file_of(site, kept).passphrase == site.keys.open(kept).reveal()
    message = shown(row, site.admin())
    assert (message.memory.pool_name, message.memory.size_bytes) == (kept.pool.name, vm.memory_bytes)
    site.check_whole()

    stop(site, engine, vm)
    content = file_of(site, kept).content
    for volume in Volume.select().where(Volume.vm_id == vm.id):
        file_of(site, volume).content = "written since"
    assert outcome(engine, site.record(reverting(site, row))) == OK
    vm = reload(vm)
    assert (vm.state, machine(site, vm).running, machine(site, vm).memory) == ("running", True, content)
    site.check_whole()

    stop(site, engine, vm)
    disks_only = lambda: vm_snapshots.revert(row, "alice", site.keys, disks_only=True)  # noqa: E731
    assert outcome(engine, site.record(disks_only)) == OK
    assert (reload(vm).state, reload(vm).host_id) == ("stopped", None)
    assert outcome(engine, site.record(lambda: vms.start(reload(vm), "alice"))) == OK
    assert machine(site, vm).memory == ""

    before = set(Passphrase.select(Passphrase.id).tuples())
    assert outcome(engine, site.record(lambda: vm_snapshots.delete(reload(row), "alice"))) == OK
    assert kept.file_id not in site.fleet.files()
    assert (kept.passphrase_id,) in before
    assert Passphrase.get_or_none(Passphrase.id == kept.passphrase_id) is None
    destroyed = Event.select().where((Event.type == "vm-snapshot.key.destroy") & (Event.resource_id == row.id))
    assert destroyed.count() == 1
    site.check_whole()


def test_a_pool_that_holds_memory_is_not_deleted(site: Site, engine: Engine) -> None:
    row = take_with_memory(site, engine, vm_with_data(site, engine))
    empty = Pool.create(name=f"empty-{row.id[:8]}", type="nfs", scope="zone", scope_id="z")
    VmSnapshotMemory.update(pool=empty).where(VmSnapshotMemory.vm_snapshot == row).execute()
    error = refused(site, lambda: pools.delete(engine.agents, empty, "root"))
    assert (error.reason, "holds the memory of VM snapshot lively" in str(error)) == ("POOL_HAS_SNAPSHOTS", True)
    VmSnapshotMemory.update(pool=disks(row)[0].snapshot.pool_id).where(VmSnapshotMemory.vm_snapshot == row).execute()
    empty.delete_instance()


def test_memory_that_cannot_be_kept_is_refused(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    taking_it = lambda: vm_snapshots.create(  # noqa: E731
        vm_snapshots.NewVmSnapshot(reload(vm), "lively", memory=True), "alice", site.keys
    )
    host = Host.get_by_id(vm.host_id)
    functions = set(host.functions.split(",")) - {Function.MEMORY_SNAPSHOT}
    Host.update(functions=",".join(functions)).where(Host.id == host.id).execute()
    assert refusal(site, taking_it) == "FUNCTION_NOT_SUPPORTED"
    Host.update(functions=host.functions).where(Host.id == host.id).execute()
    stop(site, engine, vm)
    assert refusal(site, taking_it) == "VM_NOT_RUNNING"
    assert not VmSnapshotMemory.select().exists()


def test_a_vm_that_changed_does_not_continue_from_its_memory(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    row = take_with_memory(site, engine, vm)
    stop(site, engine, vm)
    Vm.update(cpus=vm.cpus + 1).where(Vm.id == vm.id).execute()
    error = refused(site, reverting(site, row))
    assert (error.reason, f"its CPUs (then {vm.cpus}, now {vm.cpus + 1})" in str(error)) == ("VM_CHANGED", True)
    assert reload(vm).state == "stopped"
    Vm.update(cpus=vm.cpus).where(Vm.id == vm.id).execute()
    for host in Host.select():
        cpus.record(host.id, vm_pb2.CpuModel(model="other"))
    VmSnapshotMemory.update(cpus="0123456789abcdef").where(VmSnapshotMemory.vm_snapshot == row).execute()
    assert refusal(site, reverting(site, row)) == "NO_FEASIBLE_HOST"
    assert (reload(vm).state, reload(vm).host_id, reload(row).operation_id) == ("stopped", None, "")
    site.check_whole()


def test_a_guest_that_cannot_continue_is_stopped_with_the_disks_of_the_snapshot(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    row = take_with_memory(site, engine, vm)
    contents = [file_of(site, disk.snapshot).content for disk in disks(row)]
    stop(site, engine, vm)
    for fake in site.hosts.values():
        fake.fail("StartVm", Fault(FailedPreconditionError("no", "MEMORY_NOT_RESTORED"), before=True))
    operation = site.record(reverting(site, row))
    assert "MEMORY_NOT_RESTORED" in outcome(engine, operation)
    vm = reload(vm)
    assert (vm.state, vm.power_state, vm.host_id) == ("stopped", "stopped", None)
    mine = Volume.select().where(Volume.vm_id == vm.id).order_by(Volume.slot)
    assert [file_of(site, volume).content for volume in mine] == contents
    site.check_whole()


def test_a_failed_copy_leaves_the_vm_and_its_disks_as_they_were(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    row = take_with_memory(site, engine, vm)
    stop(site, engine, vm)
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(NO, before=False, times=10))
    assert "NO_WAY" in outcome(engine, site.record(reverting(site, row)))
    assert (reload(vm).state, reload(vm).host_id) == ("stopped", None)
    site.check_whole()


def test_a_failed_snapshot_leaves_no_memory(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    for fake in site.hosts.values():
        fake.fail("CopyDisks", Fault(NO, before=False, times=10))
    wanted = vm_snapshots.NewVmSnapshot(vm, "lively", memory=True)
    operation = site.record(lambda: vm_snapshots.create(wanted, "alice", site.keys))
    assert "NO_WAY" in outcome(engine, operation)
    assert not VmSnapshotMemory.select().exists()
    site.check_whole()
