"""VMs booted from backups, to test them, against agents that work in memory: nothing of them stays."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
from ostler.types.v1 import guest_pb2
from ostler_common.errors import FailedPreconditionError
from ostler_control import vm_backups
from ostler_control.api.convert.backups import backup as convert_backup
from ostler_control.caller import Caller, Role
from ostler_control.models import Backup, Vm, Volume
from ostler_control.operations import Engine
from ostler_control.operations.records import request_cancel
from ostler_control.vm_backups.boot import MAX_TEXT, MAX_TIMEOUT_S

from tests.fakes.working_agent import Fault
from tests.sites import Site, outcome
from tests.unit.control.copies import OK, refusal, running_vm, working

__all__ = ["working"]  # a fixture

ADMIN = Caller(Role.ADMIN, "1", "root")


@pytest.fixture
def backup(site: Site, engine: Engine) -> Any:
    """A backup of a running VM, to a store that all hosts reach."""
    site.add_backup_store()
    vm = running_vm(site, engine, "web")
    operation = site.record(lambda: vm_backups.create(vm_backups.NewBackup(vm), "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Backup.get_by_id(operation.resource_id)


def boot(site: Site, backup: Any, timeout_s: int = 0, text: str = "") -> Any:
    return site.record(lambda: vm_backups.boot(backup, "alice", timeout_s, text))


def left(backup: Any) -> tuple[list[str], int, bool, str, str]:
    """The VMs and volumes there are, and what is known of the backup."""
    shown = convert_backup(Backup.get_by_id(backup.id), ADMIN)
    names = [vm.name for vm in Vm.select()]
    return names, Volume.select().count(), shown.HasField("boot_time"), shown.boot_sign, shown.boot_error


def test_a_guest_whose_agent_answers_has_booted(site: Site, engine: Engine, backup: Any) -> None:
    for fake in site.hosts.values():
        fake.guest = guest_pb2.GuestInfo(agent_version="7.2")
    assert outcome(engine, boot(site, backup)) == OK
    for fake in site.hosts.values():
        fake.guest = None
    assert left(backup) == (["web"], 1, True, "guest agent", "")
    site.check_whole()


def test_a_guest_whose_console_shows_the_text_has_booted(site: Site, engine: Engine, backup: Any) -> None:
    assert outcome(engine, boot(site, backup, text="last 200")) == OK
    assert left(backup) == (["web"], 1, True, "console", "")


def test_one_that_shows_nothing_has_not(site: Site, engine: Engine, backup: Any) -> None:
    assert outcome(engine, boot(site, backup, timeout_s=1)) == ("failed", "BACKUP_DOES_NOT_BOOT")
    names, volumes, known, sign, error = left(backup)
    assert (names, volumes, known, sign) == (["web"], 1, True, "")
    assert 'the console did not show "login:" within 1 s' in error
    assert "last 200" in error, "its last line helps"


@pytest.mark.parametrize(("method", "reason"), [("CopyVolume", "NO_WAY"), ("StartVm", "NO_WAY")])
def test_what_fails_before_says_nothing_of_the_backup(
    site: Site, engine: Engine, backup: Any, method: str, reason: str
) -> None:
    for fake in site.hosts.values():
        fake.fail(method, Fault(FailedPreconditionError("no", "NO_WAY")))
    assert outcome(engine, boot(site, backup)) == ("failed", reason)
    assert left(backup) == (["web"], 1, False, "", "")


def test_a_cancelled_one_leaves_nothing(site: Site, engine: Engine, backup: Any) -> None:
    hold = threading.Event()
    faults = [fake.fail("CopyVolume", Fault(hold=hold)) for fake in site.hosts.values()]
    operation = boot(site, backup)
    engine.launch(operation)
    assert any(fault.reached.wait(20) for fault in faults[:1]) or any(fault.reached.is_set() for fault in faults)
    request_cancel(operation.id)
    assert outcome(engine, operation)[0] == "cancelled"
    hold.set()
    assert left(backup) == (["web"], 1, False, "", "")


def test_a_backup_is_held_meanwhile_and_wrong_requests_are_refused(site: Site, engine: Engine, backup: Any) -> None:
    for timeout_s, text in ((-1, ""), (MAX_TIMEOUT_S + 1, ""), (0, "x" * (MAX_TEXT + 1)), (0, "\n")):
        assert refusal(site, partial(vm_backups.boot, backup, "alice", timeout_s, text)) == "INVALID_FIELD"
    operation = boot(site, backup, text="last 200")
    assert refusal(site, lambda: vm_backups.delete(backup, "alice")) == "RESOURCE_BUSY"
    assert outcome(engine, operation) == OK
