"""Schedules of snapshots: made, ended, and carried out.

Any replica may carry them out: a run is claimed by the row that says when it is due. A run that is refused (the volume
is busy, its host is silent) is tried again every minute, until it can be taken or the next one is due. Runs that were
missed are not made up for: the latest is taken late, and the next when it is due.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import structlog
from ostler_common.errors import AbortedError, NotFoundError, OstlerError, bad_field
from peewee import fn

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.models import Host, Snapshot, SnapshotSchedule, Volume, now
from ostler_control.operations import chore, launch
from ostler_control.snapshots.create import NewSnapshot, create
from ostler_control.snapshots.delete import delete
from ostler_control.snapshots.times import DAILY, HOURLY, INTERVALS, WEEKLY, Timetable

log = structlog.get_logger(__name__)

MAX_KEPT = 1000
RETRY = datetime.timedelta(minutes=1)
# Scheduled snapshots under way at once, for each host that is up: at midnight everybody's are due.
MAX_PER_HOST = 2


@dataclass(frozen=True)
class NewSchedule:
    """A schedule that is wanted, with the fields of its row."""

    volume: Volume
    interval: str
    minute: int
    hour: int
    day: int
    keep: int


def create_schedule(wanted: NewSchedule, user: str) -> SnapshotSchedule:
    """Records a schedule. Raises InvalidArgumentError INVALID_SCHEDULE."""
    timetable = _timetable(wanted)
    if not 1 <= wanted.keep <= MAX_KEPT:
        raise bad_field("keep", f"must be 1 to {MAX_KEPT}", "INVALID_SCHEDULE")
    schedule: SnapshotSchedule = SnapshotSchedule.create(
        volume=wanted.volume,
        interval=timetable.interval,
        minute=timetable.minute,
        hour=timetable.hour,
        day=timetable.day,
        keep=wanted.keep,
        next_time=timetable.next_after(now()),
    )
    _event("create", schedule, wanted.volume, user, events.Outcome.SUCCEEDED, f"{wanted.interval}, keeps {wanted.keep}")
    return schedule


def _timetable(wanted: NewSchedule) -> Timetable:
    assert wanted.interval in INTERVALS, wanted.interval
    if not 0 <= wanted.minute <= 59:
        raise bad_field("minute", "must be 0 to 59", "INVALID_SCHEDULE")
    if not 0 <= wanted.hour <= (0 if wanted.interval == HOURLY else 23):
        wrong = "must be 0 for an hourly schedule" if wanted.interval == HOURLY else "must be 0 to 23"
        raise bad_field("hour", wrong, "INVALID_SCHEDULE")
    if wanted.interval in (HOURLY, DAILY):
        if wanted.day not in (0, 1):
            raise bad_field("day", f"must be left out for a schedule that is {wanted.interval}", "INVALID_SCHEDULE")
        return Timetable(wanted.interval, wanted.minute, wanted.hour)
    last, what = (7, "7, Monday to Sunday") if wanted.interval == WEEKLY else (28, "28, which every month has")
    if not 1 <= wanted.day <= last:
        raise bad_field("day", f"must be 1 to {what}", "INVALID_SCHEDULE")
    return Timetable(wanted.interval, wanted.minute, wanted.hour, wanted.day)


def delete_schedule(schedule: Any, user: str) -> None:
    """Ends a schedule; its snapshots stay. One that has gone meanwhile is a success."""
    with transaction():
        if SnapshotSchedule.delete().where(SnapshotSchedule.id == schedule.id).execute():
            _event("delete", schedule, schedule.volume, user, events.Outcome.SUCCEEDED, schedule.interval)


@chore
def run_schedules() -> None:
    """Takes the snapshots that are due, and deletes those that their schedules keep no longer."""
    for schedule in _due(now()):
        _take(schedule, now())
    for schedule, snapshot in _superfluous():
        _delete(schedule, snapshot)


def _due(moment: datetime.datetime) -> list[Any]:
    """The schedules that are due, the longest waiting first: as many as the hosts should have to do at once."""
    with session():
        hosts = Host.select().where((Host.state == "up") & ~Host.removed).count()
        busy = Snapshot.select().where((Snapshot.state == "creating") & Snapshot.schedule.is_null(False)).count()
        due: Any = SnapshotSchedule.select().where(SnapshotSchedule.next_time <= moment)
        return list(due.order_by(SnapshotSchedule.next_time).limit(max(0, hosts * MAX_PER_HOST - busy)))


class _TakenByAnother(Exception):
    pass


def _take(schedule: Any, moment: datetime.datetime) -> None:
    timetable = Timetable(schedule.interval, schedule.minute, schedule.hour, schedule.day)
    next_time = timetable.next_after(moment)
    mine = (SnapshotSchedule.id == schedule.id) & (SnapshotSchedule.next_time == schedule.next_time)
    try:
        with transaction():
            # The volume is taken first, as whoever deletes it with its schedules does: else two wait for each other.
            volume = Volume.get_or_none(Volume.id == schedule.volume_id)
            if volume is None:
                return
            operation = create(NewSnapshot(volume, schedule=schedule), events.SYSTEM)
            if SnapshotSchedule.update(next_time=next_time).where(mine).execute() != 1:
                raise _TakenByAnother
    except _TakenByAnother:
        return
    except OstlerError as error:
        log.warning("a scheduled snapshot could not be begun", schedule=schedule.id, reason=error.reason)
        with transaction():
            if SnapshotSchedule.update(next_time=min(moment + RETRY, next_time)).where(mine).execute() == 1:
                _note(schedule, f"not taken: {error}")
        return
    launch(operation)


def _superfluous() -> list[tuple[Any, Any]]:
    """Schedules that have more whole snapshots than they keep, with each of the oldest of these."""
    found: list[tuple[Any, Any]] = []
    with session():
        whole: Any = SnapshotSchedule.select().join(Snapshot).where(Snapshot.state == "ready")
        whole = whole.group_by(SnapshotSchedule).having(fn.COUNT(Snapshot.id) > SnapshotSchedule.keep)
        for schedule in whole:
            ready = Snapshot.select().where((Snapshot.schedule == schedule) & (Snapshot.state == "ready"))
            newest_first = list(ready.order_by(Snapshot.create_time.desc(), Snapshot.id.desc()))
            found += [(schedule, snapshot) for snapshot in newest_first[schedule.keep :]]
    return found


def _delete(schedule: Any, snapshot: Any) -> None:
    try:
        with transaction():
            operation = delete(snapshot, events.SYSTEM)
    except (AbortedError, NotFoundError):  # somebody works on it, or was faster
        return
    except OstlerError as error:
        with transaction():
            _note(schedule, f"snapshot {snapshot.name} not deleted: {error}")
        return
    launch(operation)


def _note(schedule: Any, message: str) -> None:
    """Keeps what went wrong; an event tells of it once, not at every try."""
    changed = (SnapshotSchedule.id == schedule.id) & (SnapshotSchedule.last_error != message)
    if SnapshotSchedule.update(last_error=message).where(changed).execute():
        _event("run", schedule, schedule.volume, events.SYSTEM, events.Outcome.FAILED, message)


def _event(verb: str, schedule: Any, volume: Any, actor: str, outcome: events.Outcome, message: str) -> None:
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
