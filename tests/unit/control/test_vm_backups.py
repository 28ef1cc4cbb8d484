"""Backups of VMs from request to end, against agents that work in memory, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from ostler.types.v1.volume_pb2 import CONSISTENCY_APPLICATION
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.hypervisors import Function
from ostler_control import vm_backups, vms, volumes
from ostler_control.api.convert.backups import backup as convert_backup
from ostler_control.caller import Caller, Role
from ostler_control.models import (
    Backup,
    BackupConsistency,
    BackupDisk,
    Event,
    Host,
    Nic,
    Passphrase,
    Pool,
    Vm,
    Volume,
)
from ostler_control.operations import Engine
from ostler_control.pools import manage
from ostler_control.scheduling import placement_query

from tests.fakes.working_agent import Fault
from tests.sites import MIB, Site, outcome
from tests.unit.control.copies import OK, data_volume, file_of, refusal, reload, running_vm, working

__all__ = ["working"]  # a fixture


@pytest.fixture(autouse=True)
def store(site: Site) -> Any:
    """A store that all hosts reach. Its row stays: the module's site is thrown away."""
    return site.add_backup_store()


def vm_with_data(site: Site, engine: Engine, name: str = "web", kind: str = "encrypted") -> Any:
    """A running VM with an encrypted root disk and a data disk of that kind in slot 1."""
    data = data_volume(site, engine, f"{name}-data", kind)
    vm = running_vm(site, engine, name)
    assert outcome(engine, site.record(lambda: volumes.attach(data, vm, "alice"))) == OK
    return reload(vm)


def stop(site: Site, engine: Engine, vm: Any) -> None:
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice", force=True))) == OK


def back_up(site: Site, engine: Engine, vm: Any, name: str = "", **wanted: Any) -> Any:
    new = vm_backups.NewBackup(vm, name, **wanted)
    operation = site.record(lambda: vm_backups.create(new, "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Backup.get_by_id(operation.resource_id)


def disks(backup: Any) -> list[Any]:
    return list(BackupDisk.select().where(BackupDisk.backup == backup).order_by(BackupDisk.slot))


def restored(site: Site, engine: Engine, backup: Any, name: str, **wanted: Any) -> Any:
    new = vm_backups.NewVmRestore(backup, name, **wanted)
    operation = site.record(lambda: vm_backups.restore_vm(new, "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Vm.get_by_id(operation.resource_id)


def reason(make: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        make()
    return caught.value.reason


def refused_backup(site: Site, vm: Any, **wanted: Any) -> str:
    return refusal(site, lambda: vm_backups.create(vm_backups.NewBackup(vm, **wanted), "alice", site.keys))


@pytest.mark.parametrize("kind", ["encrypted", "plain"])
def test_a_backup_has_every_disk_of_a_running_vm_under_its_own_key(site: Site, engine: Engine, kind: str) -> None:
    vm = vm_with_data(site, engine, kind=kind)
    for fake in site.hosts.values():
        fake.calls.clear()
        fake.consistency = (CONSISTENCY_APPLICATION, "")
    backup = back_up(site, engine, vm, "before")
    assert (backup.state, backup.online, backup.vm_name) == ("ready", True, "web")
    assert [(row.backup.id, row.consistency) for row in BackupConsistency.select()] == [(backup.id, "application")]
    shown = convert_backup(backup, Caller(Role.ADMIN, "1", "alice"))
    assert shown.consistency == CONSISTENCY_APPLICATION
    root, data = disks(backup)
    assert ((root.slot, root.root, root.encrypted), (data.slot, data.root)) == ((0, True, True), (1, False))
    assert data.encrypted == (kind == "encrypted")
    for disk in (root, data):
        source = file_of(site, Volume.get_by_id(disk.volume_id))
        assert file_of(site, disk).content == source.content
        assert file_of(site, disk).passphrase not in (b"", source.passphrase)
        assert (len(disk.sha256), disk.encrypt_format) == (64, "luks")
    assert root.passphrase_id != data.passphrase_id
    calls = {fake.name: fake.calls.count("CopyDisks") for fake in site.hosts.values()}
    assert calls == {**dict.fromkeys(calls, 0), vm.host.name: 1}, "one job, by the VM's host"
    site.check_whole()


def test_a_stopped_vm_is_backed_up_and_the_name_is_its_and_the_time(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    stop(site, engine, vm)
    first, second = back_up(site, engine, vm), back_up(site, engine, vm)
    assert (first.online, first.name[:6]) == (False, "web-20")
    assert first.name != second.name
    assert refused_backup(site, vm, name=first.name) == "BACKUP_EXISTS"
    assert refused_backup(site, vm, name="?") == "INVALID_NAME"


def test_what_cannot_be_backed_up_is_refused(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    host = Host.get_by_id(vm.host_id)
    assert refused_backup(site, vm, store=site.pools["shared"]) == "NOT_A_STORE"
    functions = set(host.functions.split(",")) - {Function.ONLINE_BACKUP}
    Host.update(functions=",".join(functions)).where(Host.id == host.id).execute()
    assert refused_backup(site, vm) == "FUNCTION_NOT_SUPPORTED"
    Host.update(functions=host.functions, volume_encryption=False).where(Host.id == host.id).execute()
    assert refused_backup(site, vm) == "LACKS_VOLUME_ENCRYPTION"
    Host.update(volume_encryption=True).where(Host.id == host.id).execute()
    site.silence(host.name)
    assert refused_backup(site, vm) == "HOST_SILENT"
    site.revive(host.name)


def test_the_vm_is_busy_only_while_it_is_copied(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    holds = {method: threading.Event() for method in ("CopyDisks", "DigestVolume")}
    faults = {method: site.at(vm.host_id).fail(method, Fault(hold=hold)) for method, hold in holds.items()}
    operation = site.record(lambda: vm_backups.create(vm_backups.NewBackup(vm), "alice", site.keys))
    assert faults["CopyDisks"].reached.wait(20)
    assert refusal(site, lambda: vms.stop(vm, "alice")) == "RESOURCE_BUSY"
    holds["CopyDisks"].set()
    assert faults["DigestVolume"].reached.wait(20)
    backup = Backup.get_by_id(operation.resource_id)
    assert reason(lambda: site.record(lambda: vm_backups.delete(backup, "alice"))) == "RESOURCE_BUSY"
    stop(site, engine, vm)
    holds["DigestVolume"].set()
    assert outcome(engine, operation) == OK


@pytest.mark.parametrize("method", ["CopyDisks", "DigestVolume"])
@pytest.mark.parametrize("before", [True, False])
def test_a_failed_backup_leaves_nothing(site: Site, engine: Engine, method: str, before: bool) -> None:
    vm = vm_with_data(site, engine)
    keys = Passphrase.select().count()
    site.at(vm.host_id).fail(method, Fault(FailedPreconditionError("the store is full", "NO_SPACE"), before=before))
    operation = site.record(lambda: vm_backups.create(vm_backups.NewBackup(vm), "alice", site.keys))
    assert outcome(engine, operation) == ("failed", "NO_SPACE")
    assert (Backup.select().count(), BackupDisk.select().count(), Passphrase.select().count()) == (0, 0, keys)
    site.check_whole()


def test_a_failed_backup_whose_files_may_exist_stays_to_be_deleted(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    no = FailedPreconditionError("no", "NO_WAY")
    site.at(vm.host_id).fail("DigestVolume", Fault(no))
    site.at(vm.host_id).fail("DeleteVolume", Fault(no))
    operation = site.record(lambda: vm_backups.create(vm_backups.NewBackup(vm), "alice", site.keys))
    assert outcome(engine, operation) == ("failed", "NO_WAY")
    backup: Any = Backup.get_by_id(operation.resource_id)
    assert (backup.state, len(disks(backup))) == ("failed", 2)
    site.at(vm.host_id).faults.clear()
    wanted = vm_backups.NewVmRestore(backup, "other")
    assert reason(lambda: site.record(lambda: vm_backups.restore_vm(wanted, "a", site.keys))) == "BACKUP_STATE"
    assert outcome(engine, site.record(lambda: vm_backups.delete(backup, "alice"))) == OK


def test_a_backup_outlives_its_vm_and_becomes_a_new_one_encrypted_as_it_was(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine, kind="plain")
    contents = {volume.slot: file_of(site, volume).content for volume in Volume.select().where(Volume.vm_id == vm.id)}
    macs = {nic.mac for nic in Nic.select().where(Nic.vm == vm)}
    backup = back_up(site, engine, vm, "last")
    assert outcome(engine, site.record(lambda: vms.delete(vm, "alice", force=True))) == OK
    assert outcome(engine, site.record(lambda: volumes.delete(Volume.get(Volume.name == "web-data"), "alice"))) == OK
    again = restored(site, engine, backup, "web", keep_macs=True)
    assert (again.state, again.id != vm.id) == ("stopped", True)
    assert {nic.mac for nic in Nic.select().where(Nic.vm == again)} == macs
    made = {volume.slot: volume for volume in Volume.select().where(Volume.vm_id == again.id)}
    assert {slot: file_of(site, volume).content for slot, volume in made.items()} == contents
    assert {slot: volume.encrypt_format for slot, volume in made.items()} == {0: "luks", 1: "none"}
    assert made[0].passphrase_id not in {disk.passphrase_id for disk in disks(backup)}
    assert outcome(engine, site.record(lambda: vms.start(again, "alice"))) == OK
    site.check_whole()


def test_a_new_vm_beside_the_old_one_has_other_addresses(site: Site, engine: Engine) -> None:
    wanted = {"nics": [vms.NewNic(site.network)]}
    vm = running_vm(site, engine, "web", **wanted)
    backup = back_up(site, engine, vm, "b")
    copy = restored(site, engine, backup, "copy")
    (old,), (new,) = (list(Nic.select().where(Nic.vm == one)) for one in (vm, copy))
    assert (new.network_id, new.mac != old.mac) == (old.network_id, True)
    assert list(Nic.select().where(Nic.vm == restored(site, engine, backup, "bare", without_nics=True))) == []
    for again, why in (
        (vm_backups.NewVmRestore(backup, "web"), "VM_EXISTS"),
        (vm_backups.NewVmRestore(backup, "third", keep_macs=True), "MAC_TAKEN"),
        (vm_backups.NewVmRestore(backup, "third", offering=site.plain), "ENCRYPTION_MISMATCH"),
        (vm_backups.NewVmRestore(backup, "third", pool=Pool.get(Pool.name == "store")), "POOL_IS_STORE"),
    ):
        assert refusal(site, lambda again=again: vm_backups.restore_vm(again, "a", site.keys)) == why  # type: ignore[misc]


def test_a_failed_restore_leaves_a_failed_vm_without_disks(site: Site, engine: Engine) -> None:
    backup = back_up(site, engine, vm_with_data(site, engine), "b")
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(FailedPreconditionError("no", "NO_WAY"), before=False, only=_data_disk(backup)))
    wanted = vm_backups.NewVmRestore(backup, "again")
    operation = site.record(lambda: vm_backups.restore_vm(wanted, "alice", site.keys))
    assert outcome(engine, operation) == ("failed", "NO_WAY")
    vm = Vm.get_by_id(operation.resource_id)
    assert (vm.state, Volume.select().where(Volume.vm_id == vm.id).count()) == ("failed", 0)
    site.check_whole()


def _data_disk(backup: Any) -> Callable[[Any], bool]:
    data = disks(backup)[1].id
    return lambda request: request.source.volume_id == data


def test_a_stopped_vm_gets_its_disks_back(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    backup = back_up(site, engine, vm, "b")
    then = [file_of(site, disk).content for disk in disks(backup)]
    assert refusal(site, lambda: vm_backups.restore_over(backup, "alice", site.keys)) == "VM_STATE"
    stop(site, engine, vm)
    mine = [Volume.get_by_id(disk.volume_id) for disk in disks(backup)]
    for volume in mine:
        file_of(site, volume).content = "written since"
    assert outcome(engine, site.record(lambda: vm_backups.restore_over(backup, "alice", site.keys))) == OK
    now = [reload(volume) for volume in mine]
    assert [file_of(site, volume).content for volume in now] == then
    assert all(new.file_id != old.file_id for new, old in zip(now, mine, strict=True))
    assert all(new.passphrase_id != old.passphrase_id for new, old in zip(now, mine, strict=True))
    assert [volume.encrypt_format for volume in now] == ["luks", "luks"]
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK
    site.check_whole()


def test_no_disk_is_switched_unless_all_are_complete(site: Site, engine: Engine) -> None:
    vm = vm_with_data(site, engine)
    backup = back_up(site, engine, vm, "b")
    stop(site, engine, vm)
    before = {disk.volume_id: Volume.get_by_id(disk.volume_id).file_id for disk in disks(backup)}
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(FailedPreconditionError("no", "NO_WAY"), before=False, only=_data_disk(backup)))
    operation = site.record(lambda: vm_backups.restore_over(backup, "alice", site.keys))
    assert outcome(engine, operation) == ("failed", "NO_WAY")
    assert {volume_id: Volume.get_by_id(volume_id).file_id for volume_id in before} == before
    site.check_whole()
    data = Volume.get(Volume.name == "web-data")
    assert outcome(engine, site.record(lambda: volumes.detach(data, "alice"))) == OK
    assert refusal(site, lambda: vm_backups.restore_over(backup, "alice", site.keys)) == "DISK_GONE"


def test_one_disk_becomes_a_volume(site: Site, engine: Engine) -> None:
    backup = back_up(site, engine, vm_with_data(site, engine), "b")
    wanted = vm_backups.NewDiskRestore(backup, 1, "found-again")
    operation = site.record(lambda: vm_backups.restore_disk(wanted, "alice", site.keys))
    assert outcome(engine, operation) == OK
    volume = Volume.get_by_id(operation.resource_id)
    assert (volume.state, volume.vm_id, volume.encrypt_format, volume.size_bytes) == ("ready", "", "luks", 4 * MIB)
    assert file_of(site, volume).content == file_of(site, disks(backup)[1]).content
    assert refusal(site, lambda: vm_backups.restore_disk(wanted, "alice", site.keys)) == "VOLUME_EXISTS"
    other = vm_backups.NewDiskRestore(backup, 7, "other")
    assert refusal(site, lambda: vm_backups.restore_disk(other, "alice", site.keys)) == "DISK_NOT_FOUND"


def test_a_damaged_backup_is_found(site: Site, engine: Engine) -> None:
    backup = back_up(site, engine, vm_with_data(site, engine), "b")

    def verified() -> Any:
        return site.record(lambda: vm_backups.verify(backup, "alice"))

    assert outcome(engine, verified()) == OK
    assert (reload(backup).verify_time is not None, reload(backup).verify_error) == (True, "")
    data = disks(backup)[1]
    file_of(site, data).content = "bit rot"
    assert outcome(engine, verified()) == ("failed", "BACKUP_DAMAGED")
    assert "disk 1 (web-data): its file is not the one" in reload(backup).verify_error
    kept = site.fleet.pools[data.pool_id].pop(data.id)
    assert outcome(engine, verified()) == ("failed", "BACKUP_DAMAGED")
    site.fleet.pools[data.pool_id][data.id] = kept


def test_keys_are_destroyed_with_the_files(site: Site, engine: Engine) -> None:
    backup = back_up(site, engine, vm_with_data(site, engine), "b")
    keys = [disk.passphrase_id for disk in disks(backup)]
    no = FailedPreconditionError("no", "NO_WAY")
    for fake in site.hosts.values():
        fake.fail("DeleteVolume", Fault(no))
    assert outcome(engine, site.record(lambda: vm_backups.delete(backup, "alice"))) == ("failed", "NO_WAY")
    assert (reload(backup).state, Passphrase.select().where(Passphrase.id.in_(keys)).count()) == ("failed", 2)
    for fake in site.hosts.values():
        fake.faults.clear()
    assert outcome(engine, site.record(lambda: vm_backups.delete(backup, "alice"))) == OK
    assert Passphrase.select().where(Passphrase.id.in_(keys)).count() == 0
    destroyed = Event.get(Event.type == "backup.key.destroy", Event.resource_id == backup.id)
    assert all(key in destroyed.message for key in keys)


def test_a_store_holds_backups_and_nothing_else(site: Site, engine: Engine, store: Any) -> None:
    back_up(site, engine, vm_with_data(site, engine), "b")
    assert store.id not in placement_query.pools_for("data", 0, True)
    assert reason(lambda: placement_query.pools_for("data", 0, True, pool_id=store.id)) == "POOL_IS_STORE"
    assert reason(lambda: manage.delete(engine.agents, store, "root")) == "STORE_HAS_BACKUPS"
