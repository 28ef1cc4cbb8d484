"""The journal: a later attempt runs on after the last finished step, and an earlier one records nothing any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from ostler_common.errors import FailedPreconditionError, InternalError, OstlerError
from ostler_control.database import session, transaction
from ostler_control.models import Event, Operation, OperationStep, new_id
from ostler_control.operations import Engine, Run, journal, record_operation, records
from ostler_control.operations.journal import Journal, Step

from tests import databases
from tests.fakes.working_agent import wait_until
from tests.unit.control import test_operations
from tests.unit.control.test_operations import ended, lone_engine, new_volume, started

engine = pytest.fixture(lone_engine)


def entered(replica: str = "here") -> Operation:
    with transaction():
        operation = record_operation("volume.test", new_volume(), "alice", {})
    found = records.enter(operation.id, replica)
    assert found is not None
    return found


def names(operation: Operation) -> list[str]:
    return [step.name for step in journal.read(operation.id)]


def test_a_finished_step_is_recorded_once_the_next_one_begins(fresh_database: str) -> None:
    operation = entered()
    steps = Journal(operation)
    assert steps.recorded("one") is None
    assert steps.look() == (1, False)
    steps.finished("one", {"value": {"ids": [1, "é"]}})
    assert names(operation) == []
    assert steps.look() == (1, False)
    assert journal.read(operation.id) == [Step(0, "one", '{"value": {"ids": [1, "é"]}}')]
    steps.finished("two", {"error": "{}"})
    assert steps.look() == (1, False)
    assert names(operation) == ["one", "two"]


def test_a_later_attempt_is_given_what_was_recorded(fresh_database: str) -> None:
    operation = entered()
    first = Journal(operation)
    first.finished("one", {"value": 5})
    first.look()
    again = records.enter(operation.id, "here")
    assert again is not None
    assert again.attempt == 2
    second = Journal(again, journal.read(operation.id))
    assert second.recorded("one") == {"value": 5}
    assert second.recorded("two") is None
    second.finished("two", {"value": None})
    second.look()
    assert names(operation) == ["one", "two"]


def test_an_attempt_that_was_overtaken_records_nothing(fresh_database: str) -> None:
    operation = entered()
    stale = Journal(operation)
    stale.finished("one", {"value": "stale"})
    assert records.enter(operation.id, "here") is not None
    assert stale.look() == (2, False)
    assert names(operation) == []


def test_an_attempt_that_begins_meanwhile_finds_the_step_that_is_being_recorded(
    postgresql: str,
) -> None:
    """Else both would record a step of this number."""
    with databases.bound(databases.new_database(postgresql, "entered")) as url:
        _enter_while_a_step_is_recorded(url)


# Whoever records a step waits for the holder of a lock.
_SLOW = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NEW; END $$;
    CREATE TRIGGER wait BEFORE INSERT ON operation_step FOR EACH ROW EXECUTE FUNCTION wait();
"""


def _enter_while_a_step_is_recorded(url: str) -> None:
    operation = entered()
    first = Journal(operation)
    first.finished("one", {"value": 1})
    with psycopg.connect(url, autocommit=True) as holder, ThreadPoolExecutor(2) as threads:
        holder.execute(_SLOW)
        holder.execute("SELECT pg_advisory_lock(4711)")
        looked = threads.submit(first.look)
        wait_until(lambda: _waiting(holder) == 1)
        again = threads.submit(records.enter, operation.id, "here")
        wait_until(lambda: _waiting(holder) == 2)
        assert not again.done(), "it waits for the row"
        holder.execute("SELECT pg_advisory_unlock(4711)")
        assert looked.result(20) == (1, False)
        found = again.result(20)
    assert found is not None
    assert found.attempt == 2
    assert names(operation) == ["one"]


def _waiting(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """How many connections wait for a lock."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return len(connection.execute(query).fetchall())


def test_a_commit_whose_answer_was_lost_may_be_repeated(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = entered()
    steps, record = Journal(operation), journal._record

    def lost(operation_id: str, attempt: int, step: Step, writes: Sequence[journal.Write]) -> tuple[int, bool]:
        record(operation_id, attempt, step, writes)
        raise ConnectionError

    steps.finished("one", {"value": 1})
    with monkeypatch.context() as patched:
        patched.setattr(journal, "_record", lost)
        with pytest.raises(ConnectionError):
            steps.look()
    assert steps.look() == (1, False)
    assert names(operation) == ["one"]


def test_another_step_than_the_recorded_one_is_a_clear_failure(fresh_database: str) -> None:
    operation = entered()
    steps = Journal(operation, [Step(0, "one", '{"value": 1}'), Step(1, "two", '{"value": 2}')])
    assert steps.recorded("one") == {"value": 1}
    with pytest.raises(InternalError, match="step 1 is other now, and was two when it was recorded"):
        steps.recorded("other")
    assert steps.recorded("two") is None, "an undo step of that name runs"


def test_a_step_lasts_before_the_next_one_begins(sqlite_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it might run again after a power cut although the next one has acted on its answer."""
    operation = entered()
    steps, synced = Journal(operation), list[list[str]]()
    monkeypatch.setattr(os, "fdatasync", lambda _: synced.append(names(operation)))
    steps.look()
    assert synced == [], "nothing had finished"
    steps.finished("one", {"value": 1})
    steps.look()
    assert synced == [["one"]]


def test_an_operation_of_another_replica_is_not_entered(fresh_database: str) -> None:
    operation = entered("here")
    assert records.enter(operation.id, "there") is None
    assert records.enter(operation.id, "here") is not None
    assert records.finish(operation.id, 2, None)
    assert records.enter(operation.id, "here") is None


def test_the_steps_go_with_their_operation(fresh_database: str) -> None:
    operation = entered()
    steps = Journal(operation)
    steps.finished("one", {"value": 1})
    steps.look()
    records.finish(operation.id, 1, None)
    assert OperationStep.select().count() == 1
    assert records.forget(Operation.id == operation.id) == [operation.id]
    assert OperationStep.select().count() == 0


def test_a_failed_steps_error_is_the_same_at_a_later_attempt(engine: Engine, tmp_path: Path) -> None:
    volume, seen = new_volume(), list[tuple[int, str, str]]()
    stands, go_on = threading.Event(), threading.Event()

    def fail() -> None:
        raise FailedPreconditionError("the disk is on fire", "ON_FIRE")

    def stand() -> None:
        stands.set()
        go_on.wait(20)

    @test_operations.body
    def _(run: Run) -> None:
        try:
            run.step("fails", fail)
        except OstlerError as error:
            seen.append((run.attempt, error.reason, error.message))
        run.step("stands", stand)

    operation = started(engine, volume)
    assert stands.wait(20)
    # What a crash and a new start do: the same operation is entered once more.
    overtaking = threading.Thread(target=engine.run, args=(operation.id,))
    overtaking.start()
    wait_until(lambda: len(seen) == 2)
    go_on.set()
    assert ended(engine, operation).state == "succeeded"
    overtaking.join(20)
    assert seen == [(1, "ON_FIRE", "the disk is on fire"), (2, "ON_FIRE", "the disk is on fire")]
    with session():
        assert Event.select().where(Event.outcome == "succeeded").count() == 1, "the first attempt ended nothing"


def test_a_body_that_changed_under_an_operation_fails_it_and_undoes(engine: Engine) -> None:
    volume, undone = new_volume(), list[str]()
    with transaction():
        operation = record_operation("volume.test", volume, "alice", {}, operation_id=new_id())
    Operation.update(attempt=1).where(Operation.id == operation.id).execute()
    OperationStep.insert(operation=operation.id, number=0, name="former", outcome='{"value": 1}').execute()

    @test_operations.body
    def _(run: Run) -> None:
        with run.undoing() as undo:
            undo.push("undo", lambda: undone.append("undo"))
            run.step("present", lambda: pytest.fail("it is not known what the former step did"))

    engine.launch(operation)
    row = ended(engine, operation)
    assert row.state == "failed"
    assert "step 0 is present now, and was former" in row.error
    assert undone == ["undo"]


def test_a_step_inside_of_a_step_is_a_bug(engine: Engine) -> None:
    volume = new_volume()
    test_operations.body(lambda run: run.step("outer", lambda: run.step("inner", lambda: None)))
    row = ended(engine, started(engine, volume))
    assert row.state == "failed"
    assert "AssertionError" in row.error
