"""Backups by the clock: taken when due, kept by the rules of their schedule, and never piled up."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ostler.control.v1 import backup_pb2 as pb
from ostler_common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from ostler_control import vm_backups, vms
from ostler_control.api.backups import BackupService
from ostler_control.models import Account, Backup, BackupSchedule, Event, Host, Operation, ScheduledBackup, new_id, now
from ostler_control.operations import Engine, verbs
from ostler_control.snapshots.by_clock import RETRY_PAUSE
from ostler_control.vm_backups import chains
from ostler_control.vm_backups.schedules import MAX_PER_HOST, MAX_SCHEDULES_PER_VM, run_schedules

from tests.fakes.working_agent import Fault
from tests.sites import Site, outcome
from tests.unit.control import calls
from tests.unit.control.copies import OK, reload, running_vm, working

__all__ = ["working"]  # a fixture

HOUR = datetime.timedelta(hours=1)
DAY = 24 * HOUR


@pytest.fixture(autouse=True)
def store(site: Site) -> Any:
    """A store that all hosts reach. Its row stays: the module's site is thrown away."""
    return site.add_backup_store()


@pytest.fixture(autouse=True)
def no_schedules_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only tests carry schedules out, not the engine at its own times; and no backup needs another one."""
    monkeypatch.setattr(verbs, "_TASKS", [])
    monkeypatch.setattr(chains, "MAX_INCREMENTS", 0)
    yield
    BackupSchedule.delete().execute()


def schedule_of(vm: Any, interval: str = "hourly", keep: vm_backups.Retention | None = None, **times: int) -> Any:
    at = {"minute": 0, "hour": 0, "day": 1, **times}
    new = vm_backups.NewSchedule(vm, interval, **at, keep=keep or vm_backups.Retention(last=2))
    return vm_backups.create_schedule(new, "alice")


def due(schedule: Any, ago: datetime.timedelta = HOUR) -> None:
    BackupSchedule.update(next_time=now() - ago).where(BackupSchedule.id == schedule.id).execute()


def carried_out(engine: Engine) -> list[tuple[str, str, str]]:
    """What the chore begins, once it is over: verb, state, reason."""
    before = {row.id for row in Operation.select(Operation.id)}
    run_schedules(engine.keys)
    begun = [row for row in Operation.select().order_by(Operation.create_time) if row.id not in before]
    return [(row.verb, *outcome(engine, row)) for row in begun]


def taken(schedule: Any) -> list[Any]:
    query = Backup.select().join(ScheduledBackup).where(ScheduledBackup.schedule == schedule)
    return list(query.order_by(Backup.create_time))


def back_up(site: Site, engine: Engine, vm: Any) -> Any:
    operation = site.record(lambda: vm_backups.create(vm_backups.NewBackup(vm), "alice", site.keys))
    assert outcome(engine, operation) == OK
    return Backup.get_by_id(operation.resource_id)


def test_due_backups_are_taken_and_old_ones_deleted(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    schedule = schedule_of(vm)
    by_hand = back_up(site, engine, vm)
    assert carried_out(engine) == [], "nothing is due"
    made: list[str] = []
    for _ in range(3):
        due(schedule)
        assert ("backup.create", *OK) in carried_out(engine)
        made.append(taken(schedule)[-1].id)
        carried_out(engine)
        assert [row.id for row in taken(schedule)] == made[-2:], "the newest two are kept"
    assert reload(by_hand).state == "ready", "what people took is theirs"
    row = reload(schedule)
    assert (row.last_error, now() < row.next_time <= now() + HOUR) == ("", True)
    taker: Any = Operation.get(Operation.resource_id == made[0], Operation.verb == "backup.create")
    assert (taker.user, taker.account_id) == ("system", site.account.id)
    site.check_whole()


def test_each_rule_keeps_some(site: Site, engine: Engine) -> None:
    schedule = schedule_of(running_vm(site, engine, "web"), "daily", vm_backups.Retention(daily=2, monthly=2))
    days = [datetime.datetime(2026, 1, 30, 2), *(datetime.datetime(2026, 3, day, 2) for day in (1, 2, 3))]
    for day in days:
        due(schedule)
        assert carried_out(engine) == [("backup.create", *OK)]
        Backup.update(create_time=day).where(Backup.id == taken(schedule)[-1].id).execute()
    assert carried_out(engine) == [("backup.delete", *OK)]
    assert [row.create_time for row in taken(schedule)] == [days[0], *days[2:]]


def test_a_damaged_backup_is_left_and_does_not_count(site: Site, engine: Engine) -> None:
    schedule = schedule_of(running_vm(site, engine, "web"), keep=vm_backups.Retention(last=1))
    due(schedule)
    assert carried_out(engine) == [("backup.create", *OK)]
    [good] = taken(schedule)
    due(schedule)
    assert ("backup.create", *OK) in carried_out(engine)
    bad = taken(schedule)[-1]
    Backup.update(verify_error="disk 0 is gone").where(Backup.id == bad.id).execute()
    assert carried_out(engine) == []
    assert {row.id for row in taken(schedule)} == {good.id, bad.id}


def test_missed_runs_are_made_up_for_once(site: Site, engine: Engine) -> None:
    schedule = schedule_of(running_vm(site, engine, "web"), "daily", hour=3)
    due(schedule, 30 * DAY)
    assert carried_out(engine) == [("backup.create", *OK)]
    assert carried_out(engine) == []
    assert now() < reload(schedule).next_time <= now() + DAY
    assert reload(schedule).next_time.hour == 3


def test_a_refused_run_is_retried_soon_and_recorded_once(site: Site, engine: Engine) -> None:
    schedule = schedule_of(running_vm(site, engine, "web", host=site.host("h1")), "monthly")
    site.silence("h1")
    for _ in range(2):
        due(schedule)
        assert carried_out(engine) == []
        row = reload(schedule)
        assert "h1 is silent" in row.last_error
        assert now() < row.next_time <= now() + RETRY_PAUSE
    told: Any = Event.select().where((Event.type == "backup_schedule.run") & (Event.resource_id == schedule.id))
    assert [(event.outcome, event.account_id) for event in told] == [("failed", site.account.id)]
    site.revive("h1")
    due(schedule)
    assert carried_out(engine) == [("backup.create", *OK)]
    assert (reload(schedule).last_error, reload(schedule).next_time.day) == ("", 1)


def test_a_failed_run_is_shown_and_waits_for_its_next_time(site: Site, engine: Engine) -> None:
    schedule = schedule_of(running_vm(site, engine, "web"))
    due(schedule)
    for fake in site.hosts.values():
        fake.fail("CopyDisks", Fault(FailedPreconditionError("the store is full", "NO_SPACE")))
    assert carried_out(engine) == [("backup.create", "failed", "NO_SPACE")]
    assert reload(schedule).last_error == "not created: the store is full"
    assert carried_out(engine) == []
    assert taken(schedule) == []


def test_a_backup_that_cannot_be_deleted_is_shown(site: Site, engine: Engine) -> None:
    schedule = schedule_of(running_vm(site, engine, "web"), keep=vm_backups.Retention(last=1))
    for _ in range(2):
        due(schedule)
        assert carried_out(engine) == [("backup.create", *OK)]
    Host.update(state="disconnected").execute()
    assert carried_out(engine) == []
    assert "not deleted" in reload(schedule).last_error
    Host.update(state="up").execute()
    for fake in site.hosts.values():
        fake.fail("DeleteVolume", Fault(FailedPreconditionError("no", "NO_WAY")))
    assert carried_out(engine) == [("backup.delete", "failed", "NO_WAY")]
    assert reload(schedule).last_error == "not deleted: no"
    assert [row.state for row in taken(schedule)] == ["failed", "ready"]
    for fake in site.hosts.values():
        fake.faults.clear()
    assert carried_out(engine) == [], "what failed is left to people"


def test_two_replicas_take_one_backup(site: Site, engine: Engine) -> None:
    schedule = schedule_of(running_vm(site, engine, "web"), keep=vm_backups.Retention(last=10))
    due(schedule)
    before = Operation.select().count()
    threads = [threading.Thread(target=run_schedules, args=(engine.keys,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begun = list(Operation.select().order_by(Operation.create_time.desc()).limit(Operation.select().count() - before))
    assert [outcome(engine, row) for row in begun] == [OK]
    assert len(taken(schedule)) == 1
    assert reload(schedule).next_time > now()


def test_many_due_schedules_run_a_few_at_a_time(site: Site, engine: Engine) -> None:
    for number in range(MAX_PER_HOST * 3 + 2):
        due(schedule_of(running_vm(site, engine, f"web-{number}")))
    assert carried_out(engine) == [("backup.create", *OK)] * MAX_PER_HOST * 3
    assert carried_out(engine) == [("backup.create", *OK)] * 2


def test_schedules_are_deleted_with_their_vm_and_backups_stay(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    schedule = schedule_of(vm, keep=vm_backups.Retention(last=1))
    due(schedule)
    assert carried_out(engine) == [("backup.create", *OK)]
    assert outcome(engine, site.record(lambda: vms.delete(vm, "alice", force=True))) == OK
    assert (BackupSchedule.select().count(), ScheduledBackup.select().count()) == (0, 0)
    assert [row.state for row in Backup.select()] == ["ready"]
    assert carried_out(engine) == []


@pytest.mark.parametrize(
    ("interval", "wrong", "keep"),
    [
        ("hourly", {"minute": 60}, vm_backups.Retention(last=1)),
        ("weekly", {"day": 0}, vm_backups.Retention(last=1)),
        ("daily", {}, vm_backups.Retention(last=0)),
        ("daily", {}, vm_backups.Retention(last=2, daily=-1)),
        ("daily", {}, vm_backups.Retention(last=900, monthly=101)),
    ],
)
def test_an_invalid_time_or_number_is_refused(
    site: Site, engine: Engine, interval: str, wrong: dict[str, int], keep: vm_backups.Retention
) -> None:
    vm = running_vm(site, engine, "web")
    with pytest.raises(InvalidArgumentError) as caught:
        schedule_of(vm, interval, keep, **wrong)
    assert caught.value.reason == "INVALID_SCHEDULE"


def test_a_vm_has_few_schedules(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    for _ in range(MAX_SCHEDULES_PER_VM):
        schedule_of(vm)
    with pytest.raises(ResourceExhaustedError) as caught:
        schedule_of(vm)
    assert caught.value.reason == "TOO_MANY_SCHEDULES"


def test_a_schedule_is_served_to_its_account_only(site: Site, engine: Engine) -> None:
    running_vm(site, engine, "web")
    service = BackupService(engine.agents, engine.keys)
    member = calls.context(calls.user("alice", site.account))
    stranger = calls.context(calls.user("eve", Account.create(name="other")))
    request = pb.CreateBackupScheduleRequest(
        request_id=new_id(), vm="web", interval=pb.BackupSchedule.WEEKLY, minute=30, hour=3, day=7,
        keep=pb.BackupRetention(weekly=4),
    )  # fmt: skip
    made = service.CreateBackupSchedule(request, member)
    assert service.CreateBackupSchedule(request, member) == made, "a repeat is harmless"
    assert (made.vm_name, made.interval, made.keep.weekly, made.last_error) == ("web", pb.BackupSchedule.WEEKLY, 4, "")
    next_time = made.next_time.ToDatetime()
    assert (next_time.isoweekday(), next_time.hour, next_time.minute) == (7, 3, 30)
    listed = pb.ListBackupSchedulesRequest(vm="web")
    assert list(service.ListBackupSchedules(listed, member).schedules) == [made]
    assert list(service.ListBackupSchedules(pb.ListBackupSchedulesRequest(), stranger).schedules) == []
    delete = pb.DeleteBackupScheduleRequest(schedule=made.id)
    for context, call in ((stranger, delete), (member, pb.DeleteBackupScheduleRequest(schedule=new_id()))):
        with pytest.raises(NotFoundError) as caught:
            service.DeleteBackupSchedule(call, context)
        assert caught.value.reason == "BACKUP_SCHEDULE_NOT_FOUND"
    service.DeleteBackupSchedule(delete, member)
    events = Event.select().where(Event.resource_id == made.id).order_by(Event.create_time)
    assert [row.type for row in events] == ["backup_schedule.create", "backup_schedule.delete"]
