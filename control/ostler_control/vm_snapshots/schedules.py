"""Schedules of VM snapshots: creating, deleting and running them.

Any replica may run a schedule: it claims a run by the row that says when it is due. A run that is refused (the VM is
busy, its host is disconnected) is retried every minute, until it succeeds or the next one is due. After a downtime only
the latest missed run is made up for.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import structlog
from ostler_common.errors import AbortedError, NotFoundError, OstlerError, ResourceExhaustedError, bad_field
from peewee import fn

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.keys import Keyring
from ostler_control.models import Host, ScheduledVmSnapshot, Vm, VmSnapshot, VmSnapshotSchedule, now
from ostler_control.operations import launch, periodic
from ostler_control.snapshots.times import Timetable, checked
from ostler_control.states import HostState, SnapshotState
from ostler_control.vm_snapshots.create import NewVmSnapshot, create, most_of
from ostler_control.vm_snapshots.delete import delete

log = structlog.get_logger(__name__)

MAX_SCHEDULES_PER_VM = 16
RETRY_PAUSE = datetime.timedelta(minutes=1)
# Scheduled snapshots in progress at once, per host that is up: at midnight many are due.
MAX_PER_HOST = 1


@dataclass(frozen=True)
class NewSchedule:
    """A requested schedule. minute, hour, day: as `times.checked` takes them."""

    vm: Vm
    interval: str
    minute: int
    hour: int
    day: int
    keep: int


def create_schedule(wanted: NewSchedule, user: str) -> VmSnapshotSchedule:
    """Records a schedule. Raises InvalidArgumentError INVALID_SCHEDULE, ResourceExhaustedError TOO_MANY_SCHEDULES."""
    timetable = checked(wanted.interval, wanted.minute, wanted.hour, wanted.day)
    # A new snapshot is taken before the oldest is deleted.
    limit = most_of(wanted.vm)
    if not 1 <= wanted.keep < limit:
        raise bad_field("keep", f"must be 1 to {limit - 1}: a VM has at most {limit} snapshots", "INVALID_SCHEDULE")
    if VmSnapshotSchedule.select().where(VmSnapshotSchedule.vm == wanted.vm).count() >= MAX_SCHEDULES_PER_VM:
        raise ResourceExhaustedError(
            f"VM {wanted.vm.name} has {MAX_SCHEDULES_PER_VM} schedules, which is the maximum; delete one first "
            "(ostler vm snapshot schedule list)",
            "TOO_MANY_SCHEDULES",
        )
    schedule = VmSnapshotSchedule.create(
        vm=wanted.vm,
        interval=timetable.interval,
        minute=timetable.minute,
        hour=timetable.hour,
        day=timetable.day,
        keep=wanted.keep,
        next_time=timetable.next_after(now()),
    )
    message = f"{wanted.interval}, keeps {wanted.keep}"
    _record_event("create", schedule, wanted.vm, user, events.Outcome.SUCCEEDED, message)
    return schedule


def delete_schedule(schedule: VmSnapshotSchedule, user: str) -> None:
    """Deletes a schedule; its snapshots stay. One that is already gone is a success."""
    with transaction():
        vm = schedule.vm
        if VmSnapshotSchedule.delete().where(VmSnapshotSchedule.id == schedule.id).execute():
            _record_event("delete", schedule, vm, user, events.Outcome.SUCCEEDED, schedule.interval)


@periodic
def run_schedules(keys: Keyring) -> None:
    """Takes the snapshots that are due, and deletes those that their schedules no longer keep."""
    for schedule in _due(now()):
        _run(schedule, now(), keys)
    for schedule, row in _expired():
        _delete(schedule, row)


def _due(moment: datetime.datetime) -> list[VmSnapshotSchedule]:
    """The schedules that are due, the longest overdue first: as many as the hosts should work on at once."""
    with session():
        hosts = Host.select().where((Host.state == HostState.UP) & ~Host.removed).count()
        creating = ScheduledVmSnapshot.select().join(VmSnapshot).where(VmSnapshot.state == SnapshotState.CREATING)
        due = VmSnapshotSchedule.select().where(VmSnapshotSchedule.next_time <= moment)
        room = max(0, hosts * MAX_PER_HOST - creating.count())
        return list(due.order_by(VmSnapshotSchedule.next_time).limit(room))


class _ClaimedByAnotherReplica(Exception):
    pass


def _run(schedule: VmSnapshotSchedule, moment: datetime.datetime, keys: Keyring) -> None:
    timetable = Timetable(schedule.interval, schedule.minute, schedule.hour, schedule.day)
    next_time = timetable.next_after(moment)
    still_due = (VmSnapshotSchedule.id == schedule.id) & (VmSnapshotSchedule.next_time == schedule.next_time)
    try:
        with transaction():
            # The VM is locked first, as by its deletion, which deletes its schedules: else both could deadlock.
            vm = Vm.get_or_none(Vm.id == schedule.vm_id)
            if vm is None:
                return
            operation = create(NewVmSnapshot(vm), events.SYSTEM, keys)
            ScheduledVmSnapshot.create(vm_snapshot=operation.resource_id, schedule=schedule)
            if VmSnapshotSchedule.update(next_time=next_time, last_error="").where(still_due).execute() != 1:
                raise _ClaimedByAnotherReplica
    except _ClaimedByAnotherReplica:
        return
    except OstlerError as error:
        log.warning("a scheduled VM snapshot was refused", schedule=schedule.id, reason=error.reason)
        retry = min(moment + RETRY_PAUSE, next_time)
        with transaction():
            if VmSnapshotSchedule.update(next_time=retry).where(still_due).execute() == 1:
                _record_error(schedule, f"not taken: {error}")
        return
    launch(operation)


def _expired() -> list[tuple[VmSnapshotSchedule, VmSnapshot]]:
    """The oldest snapshots of schedules that have more complete ones than they keep, each with its schedule."""
    found: list[tuple[VmSnapshotSchedule, VmSnapshot]] = []
    with session():
        ready = VmSnapshot.state == SnapshotState.READY
        counted = VmSnapshotSchedule.select().join(ScheduledVmSnapshot).join(VmSnapshot).where(ready)
        more = fn.COUNT(VmSnapshot.id) > VmSnapshotSchedule.keep
        for schedule in counted.group_by(VmSnapshotSchedule).having(more):
            own = VmSnapshot.select().join(ScheduledVmSnapshot).where(ScheduledVmSnapshot.schedule == schedule, ready)
            newest_first = list(own.order_by(VmSnapshot.create_time.desc(), VmSnapshot.id.desc()))
            found += [(schedule, row) for row in newest_first[schedule.keep :]]
    return found


def _delete(schedule: VmSnapshotSchedule, row: VmSnapshot) -> None:
    try:
        with transaction():
            operation = delete(row, events.SYSTEM)
    except (AbortedError, NotFoundError):  # an operation uses it, or has deleted it
        return
    except OstlerError as error:
        with transaction():
            _record_error(schedule, f"snapshot {row.name} not deleted: {error}")
        return
    launch(operation)


def _record_error(schedule: VmSnapshotSchedule, message: str) -> None:
    """Shows the error in the schedule, and records an event for the first of equal errors."""
    changed = (VmSnapshotSchedule.id == schedule.id) & (VmSnapshotSchedule.last_error != message)
    if VmSnapshotSchedule.update(last_error=message).where(changed).execute():
        _record_event("run", schedule, schedule.vm, events.SYSTEM, events.Outcome.FAILED, message)


def _record_event(
    verb: str, schedule: VmSnapshotSchedule, vm: Vm, actor: str, outcome: events.Outcome, message: str
) -> None:
    events.record(
        f"vm_snapshot_schedule.{verb}",
        outcome,
        actor,
        "vm_snapshot_schedule",
        schedule.id,
        vm.name,
        message,
        account_id=vm.account_id,
    )
