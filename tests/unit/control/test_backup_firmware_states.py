"""Backups hold what VMs' firmware keeps, and outlive the VM with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function
from ostler_common.secret import new_passphrase
from ostler_control import vm_backups, vms
from ostler_control.api.convert.backups import backup as convert_backup
from ostler_control.caller import Caller, Role
from ostler_control.database import session, transaction
from ostler_control.keys import versions
from ostler_control.models import Backup, BackupFirmwareState, BackupTpm, Event, Host, Passphrase
from ostler_control.vms import tpm

from tests import databases
from tests.fakes.working_agent import Fault
from tests.sites import site_at_work
from tests.unit.control.test_firmware_states import Moved

ADMIN = Caller(Role.ADMIN, "1", "alice")


class BackedUp(Moved):
    """A VM with a TPM, and a store for its backups."""

    def back_up(self, name: str) -> Backup:
        self.do(lambda: vm_backups.create(vm_backups.NewBackup(self.vm(), name), "alice", self.site.keys))
        return self.backup(name)

    def backup(self, name: str) -> Backup:
        with session():
            return Backup.get(Backup.name == name)

    def restore(self, backup: Backup, name: str) -> None:
        wanted = vm_backups.NewVmRestore(backup, name)
        self.do(lambda: vm_backups.restore_vm(wanted, "alice", self.site.keys))

    def over(self, backup: Backup) -> None:
        self.do(lambda: vm_backups.restore_over(backup, "alice", self.site.keys))

    def stored_by(self, name: str) -> bytes:
        vm = self.vm(name)
        return self.site.at(vm.host_id).tpms[vm.id].content

    def shown(self, name: str) -> tuple[bool, str]:
        """Whether the backup has a copy, and what is wrong with it."""
        with session():
            found = convert_backup(self.backup(name), ADMIN)
        return found.HasField("firmware_state_time"), found.firmware_state_problem


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BackedUp]:
    url = f"sqlite:///{tmp_path}/ostler.sqlite"
    if request.param == "postgresql":
        server: str = request.getfixturevalue("postgresql")
        url = databases.new_database(server, f"t_{uuid.uuid4().hex}")
    with databases.bound(url), site_at_work(url, tmp_path) as (site, engine):
        found = BackedUp(site, engine)
        with transaction():
            site.add_backup_store()
            Host.update(enabled=False).where(Host.name == "h3").execute()  # it cannot encrypt backups
        found.stop()
        found.start("h1")
        yield found
        with session():
            site.check_whole()


def test_a_new_vm_gets_the_tpm_of_the_backup_also_when_the_old_one_is_gone(place: BackedUp) -> None:
    place.store(b"then")
    backup = place.back_up("monday")
    place.store(b"now")
    key = place.opens()
    place.do(lambda: vms.delete(place.vm(), "alice", True))
    place.restore(backup, "web-2")
    assert place.opens("web-2") == key
    place.do(lambda: vms.start(place.vm("web-2"), "alice"))
    assert place.stored_by("web-2") == b"then"
    assert place.shown("monday") == (True, "")
    with session():
        assert versions.verify(place.site.keys.provider)[1] == []
    place.do(lambda: vm_backups.delete(place.backup("monday"), "alice"))
    with session():
        assert (BackupFirmwareState.select().count(), BackupTpm.select().count()) == (0, 0)
    place.do(lambda: vms.delete(place.vm("web-2"), "alice", True))


def test_over_the_old_vm_it_goes_back_once(place: BackedUp) -> None:
    place.store(b"then")
    backup = place.back_up("monday")
    place.store(b"now")
    place.stop()
    place.over(backup)
    place.start(place.other())
    assert place.stored() == b"then"
    place.store(b"after")
    place.stop()
    place.start(place.host().name)
    assert place.stored() == b"after"


def test_a_stopped_vm_is_asked_for_where_it_ran_last(place: BackedUp) -> None:
    place.stop()
    place.store(b"late")
    backup = place.back_up("monday")
    place.store(b"changed")
    place.over(backup)
    place.start(place.host().name)
    assert place.stored() == b"late"


def test_a_vm_that_has_another_tpm_by_now_keeps_it(place: BackedUp) -> None:
    place.store(b"then")
    backup = place.back_up("monday")
    place.stop()
    with transaction():
        tpm.set_key(place.vm().id, new_passphrase(), place.site.keys)
    place.host().tpms.clear()
    place.over(backup)
    (event,) = place.events()
    assert "another TPM" in event
    with session():
        place.site.check_whole()


def test_a_host_that_cannot_hand_it_out_does_not_cost_the_backup(place: BackedUp) -> None:
    place.host().fail("ReadFirmwareState", Fault(FailedPreconditionError("no such file", "BAD")))
    backup = place.back_up("monday")
    assert place.shown("monday") == (False, "no such file")
    with session():
        event = Event.get(Event.type == "backup.firmware-state")
    assert (event.outcome, event.resource_id) == ("failed", backup.id)
    place.restore(backup, "web-2")
    assert place.opens("web-2") != place.opens()


def test_a_last_host_that_does_not_answer_leaves_the_last_copy(place: BackedUp) -> None:
    place.store(b"copied")
    place.stop()
    place.store(b"lost")
    lost = place.host().name
    place.site.silence(lost)
    backup = place.back_up("monday")
    has, problem = place.shown("monday")
    assert (has, "last copy" in problem) == (True, True)
    place.restore(backup, "web-2")
    place.do(lambda: vms.start(place.vm("web-2"), "alice"))
    assert place.stored_by("web-2") == b"copied"
    place.site.revive(lost)


def test_drivers_that_do_not_state_it_leave_backups_that_say_so(place: BackedUp) -> None:
    functions = ",".join(sorted(set(Function) - {Function.FIRMWARE_STATE}))
    with transaction():
        Host.update(functions=functions).execute()
    place.do(lambda: place.site.new_vm("db", tpm=True))
    vm = place.vm("db")
    place.do(lambda: vm_backups.create(vm_backups.NewBackup(vm, "monday"), "alice", place.site.keys))
    has, problem = place.shown("monday")
    assert (has, "cannot" in problem) == (False, True)


def test_a_vm_whose_firmware_keeps_nothing_has_no_copy_and_no_problem(place: BackedUp) -> None:
    place.do(lambda: place.site.new_vm("plain"))
    vm = place.vm("plain")
    place.do(lambda: vm_backups.create(vm_backups.NewBackup(vm, "monday"), "alice", place.site.keys))
    assert place.shown("monday") == (False, "")


def test_a_damaged_copy_fails_the_restore_and_leaves_nothing_half(place: BackedUp) -> None:
    backup = place.back_up("monday")
    place.stop()
    with transaction():
        BackupFirmwareState.update(sealed=b"damaged").execute()
    wanted = vm_backups.NewVmRestore(backup, "web-2")
    failed = ("failed", "SEAL_BROKEN")
    assert place.run(lambda: vm_backups.restore_vm(wanted, "alice", place.site.keys)) == failed
    assert place.run(lambda: vm_backups.restore_over(backup, "alice", place.site.keys)) == failed
    with session():
        place.site.check_whole()
        assert Passphrase.select().count() > 0
    place.start()


def test_verify_boots_with_it_and_deletes_the_copy(place: BackedUp) -> None:
    place.back_up("monday")
    place.do(lambda: vm_backups.boot(place.backup("monday"), "alice", 60, "last 200"))
