"""Schedules of VM snapshots: creating, deleting and running them.

See `snapshots.by_clock`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ostler_common.errors import ResourceExhaustedError, bad_field
from peewee import fn

from ostler_control import events
from ostler_control.keys import Keyring
from ostler_control.models import Operation, ScheduledVmSnapshot, Vm, VmSnapshot, VmSnapshotSchedule, now
from ostler_control.operations import periodic
from ostler_control.snapshots.by_clock import ByClock
from ostler_control.snapshots.times import checked
from ostler_control.states import SnapshotState
from ostler_control.vm_snapshots.create import NewVmSnapshot, create, most_of
from ostler_control.vm_snapshots.delete import delete

MAX_SCHEDULES_PER_VM = 16
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
    _SCHEDULES.record_event("create", schedule, user, events.Outcome.SUCCEEDED, message)
    return schedule


def delete_schedule(schedule: VmSnapshotSchedule, user: str) -> None:
    """Deletes a schedule; its snapshots stay. One that is already gone is a success."""
    _SCHEDULES.delete_schedule(schedule, user)


@periodic
def run_schedules(keys: Keyring) -> None:
    """Takes the snapshots that are due, and deletes those that their schedules no longer keep."""
    _SCHEDULES.run(keys)


class _Schedules(ByClock[VmSnapshotSchedule, VmSnapshot]):
    def subject(self, schedule: VmSnapshotSchedule) -> Vm:
        return schedule.vm

    def in_progress(self) -> int:
        creating = VmSnapshot.state == SnapshotState.CREATING
        return ScheduledVmSnapshot.select().join(VmSnapshot).where(creating).count()

    def create(self, schedule: VmSnapshotSchedule, keys: Keyring) -> Operation | None:
        vm = Vm.get_or_none(Vm.id == schedule.vm_id)
        if vm is None:
            return None
        operation = create(NewVmSnapshot(vm), events.SYSTEM, keys)
        ScheduledVmSnapshot.create(vm_snapshot=operation.resource_id, schedule=schedule)
        return operation

    def expired(self) -> Iterator[tuple[VmSnapshotSchedule, VmSnapshot]]:
        """The oldest of those schedules that have more complete ones than they keep."""
        ready = VmSnapshot.state == SnapshotState.READY
        counted = VmSnapshotSchedule.select().join(ScheduledVmSnapshot).join(VmSnapshot).where(ready)
        more = fn.COUNT(VmSnapshot.id) > VmSnapshotSchedule.keep
        for schedule in counted.group_by(VmSnapshotSchedule).having(more):
            own = VmSnapshot.select().join(ScheduledVmSnapshot).where(ScheduledVmSnapshot.schedule == schedule, ready)
            newest_first = list(own.order_by(VmSnapshot.create_time.desc(), VmSnapshot.id.desc()))
            yield from ((schedule, row) for row in newest_first[schedule.keep :])

    def delete(self, made: VmSnapshot) -> Operation:
        return delete(made, events.SYSTEM)


_SCHEDULES = _Schedules(VmSnapshotSchedule, "vm_snapshot_schedule", MAX_PER_HOST)
