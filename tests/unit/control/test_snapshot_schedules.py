"""Snapshots by the clock: taken when due, kept as many as wanted, and never piled up."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_control import snapshots, vms, volumes
from ostler_control.models import Event, Host, Operation, Snapshot, SnapshotSchedule, now
from ostler_control.operations import Engine, verbs
from ostler_control.snapshots.by_clock import RETRY_PAUSE
from ostler_control.snapshots.schedules import MAX_PER_HOST, run_schedules

from tests.fakes.working_agent import Fault
from tests.sites import Site, outcome
from tests.unit.control.copies import (
    OK,
    data_volume,
    reload,
    root_of,
    running_vm,
    working,
)

__all__ = ["working"]  # a fixture

HOUR = datetime.timedelta(hours=1)


def schedule_of(volume: Any, interval: str = "hourly", keep: int = 2, **times: int) -> Any:
    new = snapshots.NewSchedule(volume, interval, **{"minute": 0, "hour": 0, "day": 1, **times}, keep=keep)
    return snapshots.create_schedule(new, "alice")


def due(schedule: Any, ago: datetime.timedelta = HOUR) -> None:
    SnapshotSchedule.update(next_time=now() - ago).where(SnapshotSchedule.id == schedule.id).execute()


def carried_out(engine: Engine) -> list[tuple[str, str, str]]:
    """What the chore begins, once it is over: verb, state, reason."""
    before = {row.id for row in Operation.select(Operation.id)}
    run_schedules(engine.keys)
    begun = [row for row in Operation.select().order_by(Operation.create_time) if row.id not in before]
    return [(row.verb, *outcome(engine, row)) for row in begun]


def names(schedule: Any) -> list[str]:
    return [row.id for row in Snapshot.select().where(Snapshot.schedule == schedule).order_by(Snapshot.create_time)]


@pytest.fixture(autouse=True)
def no_schedules_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only tests carry schedules out, not the engine at its own times."""
    monkeypatch.setattr(verbs, "_TASKS", [])
    yield
    SnapshotSchedule.delete().execute()


def test_due_snapshots_are_created_and_old_ones_deleted(site: Site, engine: Engine) -> None:
    volume = data_volume(site, engine, "data")
    schedule = schedule_of(volume)
    by_hand = site.record(lambda: snapshots.create(snapshots.NewSnapshot(volume, "by-hand"), "alice"))
    assert outcome(engine, by_hand) == OK
    assert carried_out(engine) == [], "nothing is due"
    made: list[str] = []
    for _ in range(4):
        due(schedule)
        assert ("snapshot.create", *OK) in carried_out(engine)
        made.append(names(schedule)[-1])
        carried_out(engine)
        carried_out(engine)
        assert names(schedule) == made[-2:], "the newest two are kept"
    assert Snapshot.get(Snapshot.name == "by-hand").state == "ready"
    row = reload(schedule)
    assert (row.last_error, now() < row.next_time <= now() + HOUR) == ("", True)
    taker: Any = Operation.get(Operation.resource_id == made[0], Operation.verb == "snapshot.create")
    assert (taker.user, taker.account_id) == ("system", site.account.id)


def test_missed_runs_are_made_up_for_once(site: Site, engine: Engine) -> None:
    schedule = schedule_of(data_volume(site, engine, "data"), "daily", 5, hour=3)
    due(schedule, datetime.timedelta(days=30))
    assert carried_out(engine) == [("snapshot.create", *OK)]
    assert carried_out(engine) == []
    assert now() < reload(schedule).next_time <= now() + 24 * HOUR
    assert reload(schedule).next_time.hour == 3


def test_a_refused_run_is_retried_soon_and_recorded_once(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web", host=site.host("h1"))
    schedule = schedule_of(root_of(vm), "monthly", 1)
    site.silence("h1")
    for _ in range(2):
        due(schedule)
        assert carried_out(engine) == []
        row = reload(schedule)
        assert "h1 is silent" in row.last_error
        assert now() < row.next_time <= now() + RETRY_PAUSE
    told: Any = Event.select().where((Event.type == "snapshot_schedule.run") & (Event.resource_id == schedule.id))
    assert [(event.outcome, event.account_id) for event in told] == [("failed", site.account.id)]
    site.revive("h1")
    due(schedule)
    assert carried_out(engine) == [("snapshot.create", *OK)]
    assert reload(schedule).last_error == ""
    assert reload(schedule).next_time.day == 1


def test_a_failed_run_waits_for_its_next_time(site: Site, engine: Engine) -> None:
    schedule = schedule_of(data_volume(site, engine, "data"))
    due(schedule)
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(FailedPreconditionError("the pool is full", "NO_SPACE")))
    assert carried_out(engine) == [("snapshot.create", "failed", "NO_SPACE")]
    assert reload(schedule).last_error == "not created: the pool is full"
    assert carried_out(engine) == []
    assert names(schedule) == []


def test_a_busy_volume_is_waited_for(site: Site, engine: Engine) -> None:
    volume = data_volume(site, engine, "data")
    schedule = schedule_of(volume)
    hold = threading.Event()
    faults = [fake.fail("CopyVolume", Fault(hold=hold)) for fake in site.hosts.values()]
    by_hand = site.record(lambda: snapshots.create(snapshots.NewSnapshot(volume), "alice"))
    due(schedule)
    assert carried_out(engine) == []
    hold.set()
    assert outcome(engine, by_hand) == OK
    assert any(fault.reached.is_set() for fault in faults)
    for fake in site.hosts.values():
        fake.faults.clear()
    due(schedule)
    assert carried_out(engine) == [("snapshot.create", *OK)]


def test_a_snapshot_that_cannot_be_deleted_is_recorded(site: Site, engine: Engine) -> None:
    schedule = schedule_of(data_volume(site, engine, "data"), keep=1)
    for _ in range(2):
        due(schedule)
        assert carried_out(engine) == [("snapshot.create", *OK)]
    Host.update(state="disconnected").execute()
    assert carried_out(engine) == []
    assert "not deleted" in reload(schedule).last_error
    Host.update(state="up").execute()
    for fake in site.hosts.values():
        fake.fail("DeleteVolume", Fault(FailedPreconditionError("no", "NO_WAY")))
    assert carried_out(engine) == [("snapshot.delete", "failed", "NO_WAY")]
    assert reload(schedule).last_error == "not deleted: no"
    assert [row.state for row in Snapshot.select().order_by(Snapshot.create_time)] == ["failed", "ready"]
    for fake in site.hosts.values():
        fake.faults.clear()
    assert carried_out(engine) == [], "what failed is left to people"


def test_two_replicas_create_one_snapshot(site: Site, engine: Engine) -> None:
    schedule = schedule_of(data_volume(site, engine, "data"), keep=10)
    due(schedule)
    before = Operation.select().count()
    threads = [threading.Thread(target=run_schedules, args=(engine.keys,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begun = list(Operation.select().order_by(Operation.create_time.desc()).limit(Operation.select().count() - before))
    assert [outcome(engine, row) for row in begun] == [OK]
    assert len(names(schedule)) == 1
    run_schedules(engine.keys)
    row = reload(schedule)
    assert row.next_time > now()


def test_many_due_schedules_run_a_few_at_a_time(site: Site, engine: Engine) -> None:
    made = [schedule_of(data_volume(site, engine, f"d{number}", "plain")) for number in range(MAX_PER_HOST * 3 + 2)]
    for schedule in made:
        due(schedule)
    assert len(carried_out(engine)) == MAX_PER_HOST * 3
    assert len(carried_out(engine)) == 2


def test_schedules_are_deleted_with_their_volume_and_snapshots_stay(site: Site, engine: Engine) -> None:
    vm = running_vm(site, engine, "web")
    schedules = [schedule_of(data_volume(site, engine, "data")), schedule_of(root_of(vm))]
    for schedule in schedules:
        due(schedule)
    assert carried_out(engine) == [("snapshot.create", *OK)] * 2
    volume = schedules[0].volume
    assert outcome(engine, site.record(lambda: volumes.delete(volume, "alice"))) == OK
    assert outcome(engine, site.record(lambda: vms.delete(vm, "alice", force=True))) == OK
    assert SnapshotSchedule.select().count() == 0
    assert [row.schedule for row in Snapshot.select()] == [None, None]
    assert carried_out(engine) == []


@pytest.mark.parametrize(
    ("interval", "wrong"),
    [
        ("hourly", {"minute": 60}),
        ("hourly", {"hour": 1}),
        ("daily", {"hour": 24}),
        ("daily", {"day": 2}),
        ("weekly", {"day": 0}),
        ("weekly", {"day": 8}),
        ("monthly", {"day": 29}),
        ("daily", {"keep": 0}),
    ],
)
def test_an_invalid_time_is_refused(site: Site, engine: Engine, interval: str, wrong: dict[str, int]) -> None:
    volume = data_volume(site, engine, "data", "plain")
    with pytest.raises(InvalidArgumentError) as caught:
        schedule_of(volume, interval, **wrong)
    assert caught.value.reason == "INVALID_SCHEDULE"
