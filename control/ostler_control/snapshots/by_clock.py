"""Running schedules: what those of snapshots, of VM snapshots and of backups have in common.

Any replica may run a schedule: it claims a run by the row that says when it is due. A run that is refused (the VM is
busy, its host is disconnected) is retried every minute, until it succeeds or the next one is due. After a downtime only
the latest missed run is made up for.
"""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Generic, TypeVar

import structlog
from ostler_common.errors import AbortedError, NotFoundError, OstlerError

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.keys import Keyring
from ostler_control.models import (
    Backup,
    BackupSchedule,
    Host,
    Operation,
    Snapshot,
    SnapshotSchedule,
    Vm,
    VmSnapshot,
    VmSnapshotSchedule,
    Volume,
    now,
)
from ostler_control.operations import launch
from ostler_control.snapshots.times import Timetable
from ostler_control.states import HostState

log = structlog.get_logger(__name__)

RETRY_PAUSE = datetime.timedelta(minutes=1)

S = TypeVar("S", SnapshotSchedule, VmSnapshotSchedule, BackupSchedule)
M = TypeVar("M", Snapshot, VmSnapshot, Backup)


class _ClaimedByAnotherReplica(Exception):
    pass


class ByClock(ABC, Generic[S, M]):
    """One kind of schedules, S, and what they make, M.

    noun: "snapshot_schedule", of events; max_per_host: how many of M are made at once for each host that is up, because
    at midnight many are due.
    """

    def __init__(self, model: type[S], noun: str, max_per_host: int) -> None:
        self._model: type[S] = model
        self._noun = noun
        self._max_per_host = max_per_host

    @abstractmethod
    def subject(self, schedule: S) -> Vm | Volume:
        """What it is a schedule for."""

    @abstractmethod
    def in_progress(self) -> int:
        """How many of M are being made for schedules now."""

    @abstractmethod
    def create(self, schedule: S, keys: Keyring) -> Operation | None:
        """Records the operation that makes one of M, or returns None when the subject is gone: within the caller's
        transaction. Locks the subject first, as its deletion does, which deletes its schedules: else both could
        deadlock."""

    @abstractmethod
    def expired(self) -> Iterable[tuple[S, M]]:
        """What schedules have made and no longer keep."""

    @abstractmethod
    def delete(self, made: M) -> Operation:
        """Records the operation that deletes one: within the caller's transaction."""

    def run(self, keys: Keyring) -> None:
        """Makes what is due, and deletes what schedules no longer keep."""
        for schedule in self._due(now()):
            self._run(schedule, now(), keys)
        with session():
            expired = list(self.expired())
        for schedule, made in expired:
            self._delete(schedule, made)

    def record_event(self, verb: str, schedule: S, actor: str, outcome: events.Outcome, message: str) -> None:
        """Within the caller's transaction."""
        subject = self.subject(schedule)
        events.record(
            f"{self._noun}.{verb}",
            outcome,
            actor,
            self._noun,
            schedule.id,
            subject.name,
            message,
            account_id=subject.account_id,
        )

    def delete_schedule(self, schedule: S, user: str) -> None:
        """Deletes a schedule; what it made stays. One that is already gone is a success."""
        with transaction():
            if self._model.delete().where(self._model.id == schedule.id).execute():
                self.record_event("delete", schedule, user, events.Outcome.SUCCEEDED, schedule.interval)

    def _due(self, moment: datetime.datetime) -> list[S]:
        """The schedules that are due, the longest overdue first: as many as the hosts should work on at once."""
        with session():
            hosts = Host.select().where((Host.state == HostState.UP) & ~Host.removed).count()
            due = self._model.select().where(self._model.next_time <= moment).order_by(self._model.next_time)
            return list(due.limit(max(0, hosts * self._max_per_host - self.in_progress())))

    def _run(self, schedule: S, moment: datetime.datetime, keys: Keyring) -> None:
        next_time = Timetable(schedule.interval, schedule.minute, schedule.hour, schedule.day).next_after(moment)
        still_due = (self._model.id == schedule.id) & (self._model.next_time == schedule.next_time)
        try:
            with transaction():
                operation = self.create(schedule, keys)
                if operation is None:
                    return
                if self._model.update(next_time=next_time, last_error="").where(still_due).execute() != 1:
                    raise _ClaimedByAnotherReplica
        except _ClaimedByAnotherReplica:
            return
        except OstlerError as error:
            log.warning("a scheduled run was refused", kind=self._noun, schedule=schedule.id, reason=error.reason)
            retry = min(moment + RETRY_PAUSE, next_time)
            with transaction():
                if self._model.update(next_time=retry).where(still_due).execute() == 1:
                    self._record_error(schedule, f"not created: {error}")
            return
        launch(operation)

    def _delete(self, schedule: S, made: M) -> None:
        try:
            with transaction():
                operation = self.delete(made)
        except (AbortedError, NotFoundError):  # an operation uses it, or has deleted it
            return
        except OstlerError as error:
            with transaction():
                self._record_error(schedule, f"{made.name} not deleted: {error}")
            return
        launch(operation)

    def _record_error(self, schedule: S, message: str) -> None:
        """Shows the error in the schedule, and records an event for the first of equal errors."""
        changed = (self._model.id == schedule.id) & (self._model.last_error != message)
        if self._model.update(last_error=message).where(changed).execute():
            self.record_event("run", schedule, events.SYSTEM, events.Outcome.FAILED, message)
