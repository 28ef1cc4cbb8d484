"""Schedules of backups: creating, deleting and running them, and deleting the backups that they no longer keep.

See `snapshots.by_clock`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

from ostler_common.errors import ResourceExhaustedError, bad_field

from ostler_control import events
from ostler_control.keys import Keyring
from ostler_control.models import Backup, BackupSchedule, Operation, ScheduledBackup, Vm, now, tuples
from ostler_control.operations import periodic
from ostler_control.snapshots.by_clock import ByClock
from ostler_control.snapshots.times import checked
from ostler_control.states import BackupState
from ostler_control.vm_backups.chains import needed
from ostler_control.vm_backups.create import NewBackup, create
from ostler_control.vm_backups.delete import delete
from ostler_control.vm_backups.retention import Retention

MAX_KEPT = 1000
MAX_SCHEDULES_PER_VM = 16
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
    _SCHEDULES.record_event("create", schedule, user, events.Outcome.SUCCEEDED, wanted.interval)
    return schedule


def delete_schedule(schedule: BackupSchedule, user: str) -> None:
    """Deletes a schedule; its backups stay. One that is already gone is a success."""
    _SCHEDULES.delete_schedule(schedule, user)


def retention_of(schedule: BackupSchedule) -> Retention:
    """What it keeps."""
    return Retention(schedule.keep_last, schedule.keep_daily, schedule.keep_weekly, schedule.keep_monthly)


@periodic
def run_schedules(keys: Keyring) -> None:
    """Takes the backups that are due, and deletes those that their schedules no longer keep."""
    _SCHEDULES.run(keys)


class _Schedules(ByClock[BackupSchedule, Backup]):
    def subject(self, schedule: BackupSchedule) -> Vm:
        return schedule.vm

    def in_progress(self) -> int:
        return ScheduledBackup.select().join(Backup).where(Backup.state == BackupState.CREATING).count()

    def create(self, schedule: BackupSchedule, keys: Keyring) -> Operation | None:
        vm = Vm.get_or_none(Vm.id == schedule.vm_id)
        if vm is None:
            return None
        operation = create(NewBackup(vm), events.SYSTEM, keys)
        ScheduledBackup.create(backup=operation.resource_id, schedule=schedule)
        return operation

    def expired(self) -> Iterator[tuple[BackupSchedule, Backup]]:
        """Those that no rule of their schedule keeps. Damaged ones are left; one that others build on goes after
        them."""
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
            if expired:
                yield from ((schedule, backup) for backup in Backup.select().where(Backup.id.in_(expired)))

    def delete(self, made: Backup) -> Operation:
        return delete(made, events.SYSTEM)


_SCHEDULES = _Schedules(BackupSchedule, "backup_schedule", MAX_PER_HOST)
