"""Snapshot schedules: creating, deleting and running them.

Any replica may run a schedule: it claims a run by the row that says when it is due. A run that is refused (the volume
is busy, its host is disconnected) is retried every minute, until it succeeds or the next one is due. After a downtime
only the latest missed run is made up for.
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
from ostler_control.models import Host, Snapshot, SnapshotSchedule, Volume, now
from ostler_control.operations import launch, periodic
from ostler_control.snapshots.create import NewSnapshot, create
from ostler_control.snapshots.delete import delete
from ostler_control.snapshots.times import Timetable, checked
from ostler_control.states import HostState, SnapshotState

log = structlog.get_logger(__name__)

MAX_KEPT = 1000
MAX_SCHEDULES_PER_VOLUME = 16
RETRY_PAUSE = datetime.timedelta(minutes=1)
# Scheduled snapshots in progress at once, per host that is up: at midnight many are due.
MAX_PER_HOST = 2


@dataclass(frozen=True)
class NewSchedule:
    """A requested schedule, with the fields of its row."""

    volume: Volume
    interval: str
    minute: int
    hour: int
    day: int
    keep: int


def create_schedule(wanted: NewSchedule, user: str) -> SnapshotSchedule:
    """Records a schedule. Raises InvalidArgumentError INVALID_SCHEDULE, ResourceExhaustedError TOO_MANY_SCHEDULES."""
    timetable = checked(wanted.interval, wanted.minute, wanted.hour, wanted.day)
    if not 1 <= wanted.keep <= MAX_KEPT:
        raise bad_field("keep", f"must be 1 to {MAX_KEPT}", "INVALID_SCHEDULE")
    if SnapshotSchedule.select().where(SnapshotSchedule.volume == wanted.volume).count() >= MAX_SCHEDULES_PER_VOLUME:
        raise ResourceExhaustedError(
            f"volume {wanted.volume.name} has {MAX_SCHEDULES_PER_VOLUME} schedules, which is the maximum; delete one "
            "first (ostler snapshot schedule list)",
            "TOO_MANY_SCHEDULES",
        )
    schedule = SnapshotSchedule.create(
        volume=wanted.volume,
        interval=timetable.interval,
        minute=timetable.minute,
        hour=timetable.hour,
        day=timetable.day,
        keep=wanted.keep,
        next_time=timetable.next_after(now()),
    )
    message = f"{wanted.interval}, keeps {wanted.keep}"
    _record_event("create", schedule, wanted.volume, user, events.Outcome.SUCCEEDED, message)
    return schedule


def delete_schedule(schedule: SnapshotSchedule, user: str) -> None:
    """Deletes a schedule; its snapshots stay. One that is already gone is a success."""
    with transaction():
        if SnapshotSchedule.delete().where(SnapshotSchedule.id == schedule.id).execute():
            _record_event("delete", schedule, schedule.volume, user, events.Outcome.SUCCEEDED, schedule.interval)


@periodic
def run_schedules(_: Keyring) -> None:
    """Creates the snapshots that are due, and deletes those that their schedules no longer keep."""
    for schedule in _due(now()):
        _run(schedule, now())
    for schedule, snapshot in _expired_snapshots():
        _delete(schedule, snapshot)


def _due(moment: datetime.datetime) -> list[SnapshotSchedule]:
    """The schedules that are due, the longest overdue first: as many as the hosts should work on at once."""
    with session():
        hosts = Host.select().where((Host.state == HostState.UP) & ~Host.removed).count()
        creating = Snapshot.state == SnapshotState.CREATING
        in_progress = Snapshot.select().where(creating & Snapshot.schedule.is_null(False)).count()
        due = SnapshotSchedule.select().where(SnapshotSchedule.next_time <= moment)
        return list(due.order_by(SnapshotSchedule.next_time).limit(max(0, hosts * MAX_PER_HOST - in_progress)))


class _ClaimedByAnotherReplica(Exception):
    pass


def _run(schedule: SnapshotSchedule, moment: datetime.datetime) -> None:
    timetable = Timetable(schedule.interval, schedule.minute, schedule.hour, schedule.day)
    next_time = timetable.next_after(moment)
    still_due = (SnapshotSchedule.id == schedule.id) & (SnapshotSchedule.next_time == schedule.next_time)
    try:
        with transaction():
            # The volume is locked first, as by its deletion, which deletes its schedules: else both could deadlock.
            volume = Volume.get_or_none(Volume.id == schedule.volume_id)
            if volume is None:
                return
            operation = create(NewSnapshot(volume, schedule=schedule), events.SYSTEM)
            if SnapshotSchedule.update(next_time=next_time).where(still_due).execute() != 1:
                raise _ClaimedByAnotherReplica
    except _ClaimedByAnotherReplica:
        return
    except OstlerError as error:
        log.warning("a scheduled snapshot was refused", schedule=schedule.id, reason=error.reason)
        with transaction():
            if SnapshotSchedule.update(next_time=min(moment + RETRY_PAUSE, next_time)).where(still_due).execute() == 1:
                _record_error(schedule, f"not created: {error}")
        return
    launch(operation)


def _expired_snapshots() -> list[tuple[SnapshotSchedule, Snapshot]]:
    """The oldest snapshots of schedules that have more complete ones than they keep, each with its schedule."""
    found: list[tuple[SnapshotSchedule, Snapshot]] = []
    with session():
        is_ready = Snapshot.state == SnapshotState.READY
        by_schedule = SnapshotSchedule.select().join(Snapshot).where(is_ready).group_by(SnapshotSchedule)
        for schedule in by_schedule.having(fn.COUNT(Snapshot.id) > SnapshotSchedule.keep):
            ready = Snapshot.select().where((Snapshot.schedule == schedule) & is_ready)
            newest_first = list(ready.order_by(Snapshot.create_time.desc(), Snapshot.id.desc()))
            found += [(schedule, snapshot) for snapshot in newest_first[schedule.keep :]]
    return found


def _delete(schedule: SnapshotSchedule, snapshot: Snapshot) -> None:
    try:
        with transaction():
            operation = delete(snapshot, events.SYSTEM)
    except (AbortedError, NotFoundError):  # an operation uses it, or has deleted it
        return
    except OstlerError as error:
        with transaction():
            _record_error(schedule, f"snapshot {snapshot.name} not deleted: {error}")
        return
    launch(operation)


def _record_error(schedule: SnapshotSchedule, message: str) -> None:
    """Shows the error in the schedule, and records an event for the first of equal errors."""
    changed = (SnapshotSchedule.id == schedule.id) & (SnapshotSchedule.last_error != message)
    if SnapshotSchedule.update(last_error=message).where(changed).execute():
        _record_event("run", schedule, schedule.volume, events.SYSTEM, events.Outcome.FAILED, message)


def _record_event(
    verb: str, schedule: SnapshotSchedule, volume: Volume, actor: str, outcome: events.Outcome, message: str
) -> None:
    events.record(
        f"snapshot_schedule.{verb}",
        outcome,
        actor,
        "snapshot_schedule",
        schedule.id,
        volume.name,
        message,
        account_id=volume.account_id,
    )
