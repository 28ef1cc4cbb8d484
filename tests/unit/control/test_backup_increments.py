"""Backups that build on each other, against agents that work in memory: what they copy, and what keeps what."""

from __future__ import annotations

from typing import Any

import pytest
from ostler_common.errors import AbortedError
from ostler_common.hypervisors import Function
from ostler_control import vm_backups, vms, volumes
from ostler_control.api.convert.backups import backup as convert_backup
from ostler_control.caller import Caller, Role
from ostler_control.models import Backup, BackupDisk, BackupSchedule, Host, Operation, ScheduledBackup, Vm, Volume, now
from ostler_control.operations import Engine, verbs
from ostler_control.states import UNFINISHED_OPERATIONS
from ostler_control.vm_backups import chains
from ostler_control.vm_backups.schedules import run_schedules
from ostler_control.volumes.increments import parents_of

from tests.fakes.working_agent import Fault, wait_until
from tests.sites import Site, outcome
from tests.unit.control.copies import OK, data_volume, file_of, refusal, reload, running_vm, working

__all__ = ["working"]  # a fixture

ADMIN = Caller(Role.ADMIN, "1", "root")


@pytest.fixture(autouse=True)
def store(site: Site) -> Any:
    """A store that all hosts reach. Its row stays: the module's site is thrown away."""
    return site.add_backup_store()


def back_up(site: Site, engine: Engine, vm: Any, **wanted: Any) -> Any:
    new = vm_backups.NewBackup(vm, **wanted)
    operation = site.record(lambda: vm_backups.create(new, "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Backup.get_by_id(operation.resource_id)


def delete(site: Site, engine: Engine, backup: Any) -> None:
    assert outcome(engine, site.record(lambda: vm_backups.delete(backup, "alice"))) == OK


def disks(backup: Any) -> list[Any]:
    return list(BackupDisk.select().where(BackupDisk.backup == backup).order_by(BackupDisk.slot))


def shown(backup: Any) -> list[tuple[str, str]]:
    """Of each disk: what it builds on, and why it is full."""
    return [(disk.parent_backup_name, disk.full_reason) for disk in convert_backup(reload(backup), ADMIN).disks]


def test_only_what_was_written_since_the_last_backup_is_copied(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    first = back_up(site, engine, vm)
    assert shown(first) == [("", chains.NO_PARENT)]
    second, third = back_up(site, engine, vm), back_up(site, engine, vm)
    assert (shown(second), shown(third)) == ([(first.name, "")], [(second.name, "")])
    assert [file_of(site, disk).since for disk in disks(third)] == [second.id]
    assert [one.id for one in parents_of(disks(third)[0])] == [disks(second)[0].id, disks(first)[0].id]
    full = back_up(site, engine, vm, full=True)
    assert shown(full) == [("", chains.REQUESTED)]
    assert shown(back_up(site, engine, vm)) == [(full.name, "")]


def test_hypervisors_without_increments_make_full_backups_of_running_vms(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    host = Host.get_by_id(vm.host_id)
    functions = set(host.functions.split(",")) - {Function.INCREMENTAL_BACKUP}
    Host.update(functions=",".join(functions)).where(Host.id == host.id).execute()
    try:
        for _ in range(2):
            last = back_up(site, engine, vm)
            assert shown(last) == [("", chains.NOT_STATED)]
    finally:
        Host.update(functions=host.functions).where(Host.id == host.id).execute()
    assert shown(back_up(site, engine, vm)) == [(last.name, "")]


def test_a_restore_reads_all_that_a_backup_builds_on(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    content = file_of(site, Volume.get(Volume.vm_id == vm.id)).content
    last = [back_up(site, engine, vm) for _ in range(3)][-1]
    wanted = vm_backups.NewVmRestore(last, "again")
    operation = site.record(lambda: vm_backups.restore_vm(wanted, "alice", site.keys))
    assert outcome(engine, operation) == OK
    assert file_of(site, Volume.get(Volume.vm_id == operation.resource_id)).content == content
    of_disk = vm_backups.NewDiskRestore(last, 0, "found-again")
    operation = site.record(lambda: vm_backups.restore_disk(of_disk, "alice", site.keys))
    assert outcome(engine, operation) == OK
    assert file_of(site, Volume.get_by_id(operation.resource_id)).content == content


def test_a_disk_restored_over_has_no_record_and_is_copied_whole(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    first = back_up(site, engine, vm)
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice", force=True))) == OK
    operation = site.record(lambda: vm_backups.restore_over(first, "alice", site.keys))
    assert outcome(engine, operation) == OK
    second = back_up(site, engine, Vm.get_by_id(vm.id))
    assert shown(second) == [("", "no record")]
    delete(site, engine, first)


def test_each_disk_has_a_chain_of_its_own(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    first = back_up(site, engine, vm)
    data = data_volume(site, engine, "data")
    assert outcome(engine, site.record(lambda: volumes.attach(data, vm, "alice"))) == OK
    second = back_up(site, engine, reload(vm))
    assert shown(second) == [(first.name, ""), ("", chains.NO_PARENT)]


def test_what_others_build_on_stays(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    first, second = back_up(site, engine, vm), back_up(site, engine, vm)
    assert refusal(site, lambda: vm_backups.delete(first, "alice")) == "BACKUP_NEEDED"
    delete(site, engine, second)
    third = back_up(site, engine, vm)
    assert shown(third) == [(first.name, "")], "the record of the one before is still there"
    delete(site, engine, third)
    delete(site, engine, first)
    assert shown(back_up(site, engine, vm)) == [("", chains.NO_PARENT)]


def test_a_failed_backup_keeps_nothing_and_the_next_builds_on_the_last_good_one(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    first = back_up(site, engine, vm)
    site.at(vm.host_id).fail("DigestVolume", Fault(AbortedError("the store is gone", "GONE")))
    failed = site.record(lambda: vm_backups.create(vm_backups.NewBackup(vm), "alice", site.keys))
    assert outcome(engine, failed) == ("failed", "GONE")
    assert shown(back_up(site, engine, vm)) == [(first.name, "")]


def test_an_agent_of_an_older_release_makes_full_backups(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    back_up(site, engine, vm)
    site.at(vm.host_id).old = True
    assert shown(back_up(site, engine, vm)) == [("", chains.OLD_AGENT)]
    site.at(vm.host_id).old = False


def test_a_chain_ends_with_a_full_backup(site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "MAX_INCREMENTS", 2)
    vm = running_vm(site, engine, "web")
    made = [back_up(site, engine, vm) for _ in range(4)]
    assert [bool(shown(one)[0][0]) for one in made] == [False, True, True, False]
    assert shown(made[-1])[0][1] == chains.LONG_ENOUGH


def test_damage_of_a_file_that_others_build_on_is_found_and_ends_the_chain(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    first, second, third = (back_up(site, engine, vm) for _ in range(3))
    file_of(site, disks(first)[0]).content = "bit rot"
    assert outcome(engine, site.record(lambda: vm_backups.verify(third, "alice"))) == ("failed", "BACKUP_DAMAGED")
    assert f"backup {first.name}, on which it builds: disk 0" in reload(third).verify_error
    assert reload(first).verify_error.startswith("disk 0")
    assert shown(back_up(site, engine, vm)) == [
        ("", f"backup {first.name}, on which the last one builds, is damaged")
    ], f"{second.name} is the last one without damage of its own"


def test_a_schedule_deletes_the_newest_of_what_it_no_longer_keeps_first(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_TASKS", [])
    monkeypatch.setattr(chains, "MAX_INCREMENTS", 1)
    vm = running_vm(site, engine, "web")
    keep = vm_backups.Retention(last=1)
    schedule = vm_backups.create_schedule(
        vm_backups.NewSchedule(vm, "monthly", minute=0, hour=0, day=1, keep=keep), "alice"
    )
    made = [back_up(site, engine, vm) for _ in range(3)]  # full, increment, full
    for one in made:
        ScheduledBackup.create(backup=one, schedule=schedule)
    left: list[int] = []
    for _ in range(3):
        run_schedules(engine.keys)
        wait_until(lambda: not Operation.select().where(Operation.state.in_(UNFINISHED_OPERATIONS)).exists())
        left.append(Backup.select().count())
    assert left == [2, 1, 1]
    assert [row.id for row in Backup.select()] == [made[2].id]
    assert reload(schedule).last_error == ""
    assert reload(schedule).next_time > now()
    BackupSchedule.delete().execute()
