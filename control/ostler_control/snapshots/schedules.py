"""Snapshot schedules: creating, deleting and running them. See `by_clock`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ostler_common.errors import ResourceExhaustedError, bad_field
from peewee import fn

from ostler_control import events
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Snapshot, SnapshotSchedule, Volume, now
from ostler_control.operations import periodic
from ostler_control.snapshots.by_clock import ByClock
from ostler_control.snapshots.create import NewSnapshot, create
from ostler_control.snapshots.delete import delete
from ostler_control.snapshots.times import checked
from ostler_control.states import SnapshotState

MAX_KEPT = 1000
MAX_SCHEDULES_PER_VOLUME = 16
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
    _SCHEDULES.record_event("create", schedule, user, events.Outcome.SUCCEEDED, message)
    return schedule


def delete_schedule(schedule: SnapshotSchedule, user: str) -> None:
    """Deletes a schedule; its snapshots stay. One that is already gone is a success."""
    _SCHEDULES.delete_schedule(schedule, user)


@periodic
def run_schedules(keys: Keyring) -> None:
    """Creates the snapshots that are due, and deletes those that their schedules no longer keep."""
    _SCHEDULES.run(keys)


class _Schedules(ByClock[SnapshotSchedule, Snapshot]):
    def subject(self, schedule: SnapshotSchedule) -> Volume:
        return schedule.volume

    def in_progress(self) -> int:
        creating = Snapshot.state == SnapshotState.CREATING
        return Snapshot.select().where(creating & Snapshot.schedule.is_null(False)).count()

    def create(self, schedule: SnapshotSchedule, keys: Keyring) -> Operation | None:
        volume = Volume.get_or_none(Volume.id == schedule.volume_id)
        return create(NewSnapshot(volume, schedule=schedule), events.SYSTEM) if volume is not None else None

    def expired(self) -> Iterator[tuple[SnapshotSchedule, Snapshot]]:
        """The oldest of those schedules that have more complete ones than they keep."""
        is_ready = Snapshot.state == SnapshotState.READY
        by_schedule = SnapshotSchedule.select().join(Snapshot).where(is_ready).group_by(SnapshotSchedule)
        for schedule in by_schedule.having(fn.COUNT(Snapshot.id) > SnapshotSchedule.keep):
            ready = Snapshot.select().where((Snapshot.schedule == schedule) & is_ready)
            newest_first = list(ready.order_by(Snapshot.create_time.desc(), Snapshot.id.desc()))
            yield from ((schedule, snapshot) for snapshot in newest_first[schedule.keep :])

    def delete(self, made: Snapshot) -> Operation:
        return delete(made, events.SYSTEM)


_SCHEDULES = _Schedules(SnapshotSchedule, "snapshot_schedule", MAX_PER_HOST)
