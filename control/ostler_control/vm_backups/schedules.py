"""Schedules of backups: creating, deleting and running them, and deleting the backups that they no longer keep.

Any replica may run a schedule: it claims a run by the row that says when it is due. A run that is refused (the VM is
busy, its host is disconnected) is retried every minute, until it succeeds or the next one is due. After a downtime only
the latest missed run is made up for.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import structlog
from ostler_common.errors import AbortedError, NotFoundError, OstlerError, ResourceExhaustedError, bad_field

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.keys import Keyring
from ostler_control.models import Backup, BackupSchedule, Host, ScheduledBackup, Vm, now, tuples
from ostler_control.operations import launch, periodic
from ostler_control.snapshots.times import Timetable, checked
from ostler_control.states import BackupState, HostState
from ostler_control.vm_backups.chains import needed
from ostler_control.vm_backups.create import NewBackup, create
from ostler_control.vm_backups.delete import delete
from ostler_control.vm_backups.retention import Retention

log = structlog.get_logger(__name__)

MAX_KEPT = 1000
MAX_SCHEDULES_PER_VM = 16
RETRY_PAUSE = datetime.timedelta(minutes=1)
# Scheduled backups in progress at once, per host that is up: at midnight many are due.
MAX_PER_HOST = 1


@dataclass(frozen=True)
class NewSchedule:
    """A requested schedule. minute, hour, day: as `times.checked` takes them."""

    vm: Vm
    interval: str
    minute: int
    hour: int
    day: int
    keep: Retention


def create_schedule(wanted: NewSchedule, user: str) -> BackupSchedule:
    """Records a schedule. Raises InvalidArgumentError INVALID_SCHEDULE, ResourceExhaustedError TOO_MANY_SCHEDULES."""
    timetable, keep = checked(wanted.interval, wanted.minute, wanted.hour, wanted.day), wanted.keep
    if min(keep.last, keep.daily, keep.weekly, keep.monthly) < 0 or not 1 <= keep.total() <= MAX_KEPT:
        raise bad_field("keep", f"must be 1 to {MAX_KEPT} in all, and no number below 0", "INVALID_SCHEDULE")
    if BackupSchedule.select().where(BackupSchedule.vm == wanted.vm).count() >= MAX_SCHEDULES_PER_VM:
        raise ResourceExhaustedError(
            f"VM {wanted.vm.name} has {MAX_SCHEDULES_PER_VM} schedules, which is the maximum; delete one first "
            "(ostler backup schedule list)",
            "TOO_MANY_SCHEDULES",
        )
    schedule = BackupSchedule.create(
        vm=wanted.vm,
        interval=timetable.interval,
        minute=timetable.minute,
        hour=timetable.hour,
        day=timetable.day,
        keep_last=keep.last,
        keep_daily=keep.daily,
        keep_weekly=keep.weekly,
        keep_monthly=keep.monthly,
        next_time=timetable.next_after(now()),
    )
    _record_event("create", schedule, wanted.vm, user, events.Outcome.SUCCEEDED, wanted.interval)
    return schedule


def delete_schedule(schedule: BackupSchedule, user: str) -> None:
    """Deletes a schedule; its backups stay. One that is already gone is a success."""
    with transaction():
        vm = schedule.vm
        if BackupSchedule.delete().where(BackupSchedule.id == schedule.id).execute():
            _record_event("delete", schedule, vm, user, events.Outcome.SUCCEEDED, schedule.interval)


def retention_of(schedule: BackupSchedule) -> Retention:
    """What it keeps."""
    return Retention(schedule.keep_last, schedule.keep_daily, schedule.keep_weekly, schedule.keep_monthly)


@periodic
def run_schedules(keys: Keyring) -> None:
    """Takes the backups that are due, and deletes those that their schedules no longer keep."""
    for schedule in _due(now()):
        _run(schedule, now(), keys)
    for schedule, backup in _expired():
        _delete(schedule, backup)


def _due(moment: datetime.datetime) -> list[BackupSchedule]:
    """The schedules that are due, the longest overdue first: as many as the hosts should work on at once."""
    with session():
        hosts = Host.select().where((Host.state == HostState.UP) & ~Host.removed).count()
        creating = ScheduledBackup.select().join(Backup).where(Backup.state == BackupState.CREATING).count()
        due = BackupSchedule.select().where(BackupSchedule.next_time <= moment)
        return list(due.order_by(BackupSchedule.next_time).limit(max(0, hosts * MAX_PER_HOST - creating)))


class _ClaimedByAnotherReplica(Exception):
    pass


def _run(schedule: BackupSchedule, moment: datetime.datetime, keys: Keyring) -> None:
    timetable = Timetable(schedule.interval, schedule.minute, schedule.hour, schedule.day)
    next_time = timetable.next_after(moment)
    still_due = (BackupSchedule.id == schedule.id) & (BackupSchedule.next_time == schedule.next_time)
    try:
        with transaction():
            # The VM is locked first, as by its deletion, which deletes its schedules: else both could deadlock.
            vm = Vm.get_or_none(Vm.id == schedule.vm_id)
            if vm is None:
                return
            operation = create(NewBackup(vm), events.SYSTEM, keys)
            ScheduledBackup.create(backup=operation.resource_id, schedule=schedule)
            if BackupSchedule.update(next_time=next_time, last_error="").where(still_due).execute() != 1:
                raise _ClaimedByAnotherReplica
    except _ClaimedByAnotherReplica:
        return
    except OstlerError as error:
        log.warning("a scheduled backup was refused", schedule=schedule.id, reason=error.reason)
        with transaction():
            if BackupSchedule.update(next_time=min(moment + RETRY_PAUSE, next_time)).where(still_due).execute() == 1:
                _record_error(schedule, f"not taken: {error}")
        return
    launch(operation)


def _expired() -> list[tuple[BackupSchedule, Backup]]:
    """The backups that no rule of their schedule keeps, each with its schedule.

    Damaged ones are left; one that others build on goes after them.
    """
    found: list[tuple[BackupSchedule, Backup]] = []
    with session():
        whole = (Backup.state == BackupState.READY) & (Backup.verify_error == "")
        taken = ScheduledBackup.select(ScheduledBackup.schedule, Backup.id, Backup.create_time).join(Backup)
        taken = taken.where(whole).order_by(Backup.create_time, Backup.id)
        by_schedule: dict[str, list[tuple[str, datetime.datetime]]] = {}
        for schedule_id, backup_id, time in tuples(taken, tuple[str, str, datetime.datetime]):
            by_schedule.setdefault(schedule_id, []).append((backup_id, time))
        in_use = needed()
        for schedule in BackupSchedule.select():
            rows = by_schedule.get(schedule.id, [])
            kept = retention_of(schedule).kept([time for _, time in rows])
            expired = [
                backup_id for at, (backup_id, _) in enumerate(rows) if at not in kept and backup_id not in in_use
            ]
            found += [(schedule, backup) for backup in Backup.select().where(Backup.id.in_(expired))] if expired else []
    return found


def _delete(schedule: BackupSchedule, backup: Backup) -> None:
    try:
        with transaction():
            operation = delete(backup, events.SYSTEM)
    except (AbortedError, NotFoundError):  # an operation uses it, or has deleted it
        return
    except OstlerError as error:
        with transaction():
            _record_error(schedule, f"backup {backup.name} not deleted: {error}")
        return
    launch(operation)


def _record_error(schedule: BackupSchedule, message: str) -> None:
    """Shows the error in the schedule, and records an event for the first of equal errors."""
    changed = (BackupSchedule.id == schedule.id) & (BackupSchedule.last_error != message)
    if BackupSchedule.update(last_error=message).where(changed).execute():
        _record_event("run", schedule, schedule.vm, events.SYSTEM, events.Outcome.FAILED, message)


def _record_event(
    verb: str, schedule: BackupSchedule, vm: Vm, actor: str, outcome: events.Outcome, message: str
) -> None:
    events.record(
        f"backup_schedule.{verb}",
        outcome,
        actor,
        "backup_schedule",
        schedule.id,
        vm.name,
        message,
        account_id=vm.account_id,
    )
