"""Rows that a step changes are written with the record of the step, or with the operation's end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import peewee
import pytest
from ostler.agent.v1.vm_pb2 import StopVmRequest
from ostler.types.v1.job_pb2 import JobUpdate
from ostler_common.errors import FailedPreconditionError
from ostler_control.agents import HostAddress
from ostler_control.database import session
from ostler_control.models import Operation, Volume
from ostler_control.operations import Engine, Run, journal, records
from ostler_control.operations.journal import Journal

from tests.fakes.working_agent import wait_until
from tests.unit.control.test_journal import entered, names
from tests.unit.control.test_operations import body, ended, lone_engine, new_engine, new_volume, started

engine = pytest.fixture(lone_engine)


def size_of(volume_id: str) -> int:
    with session():
        return int(Volume.get_by_id(volume_id).size_bytes)


def grow(volume_id: str, by: int = 1) -> None:
    Volume.update(size_bytes=Volume.size_bytes + by).where(Volume.id == volume_id).execute()


def break_down(volume_id: str) -> None:
    grow(volume_id)
    raise RuntimeError("a bug")


def test_rows_are_there_once_the_next_step_begins_and_at_the_end(engine: Engine) -> None:
    seen: list[int] = []

    @body
    def _(run: Run) -> None:
        run.step("one", lambda: run.defer_write(lambda: grow(run.resource_id)))
        run.step("two", lambda: seen.append(size_of(run.resource_id)))
        run.step("three", lambda: run.defer_write(lambda: grow(run.resource_id)))

    operation = started(engine, new_volume())
    assert ended(engine, operation).state == "succeeded"
    assert seen == [(1 << 20) + 1]
    assert size_of(operation.resource_id) == (1 << 20) + 2


def test_a_step_and_its_rows_are_one_transaction(fresh_database: str) -> None:
    """A process that dies in it leaves neither."""
    operation = entered()
    steps = Journal(operation)
    steps.finished("one", {"value": 1}, [lambda: break_down(operation.resource_id)])
    with pytest.raises(RuntimeError):
        steps.look()
    assert (names(operation), size_of(operation.resource_id)) == ([], 1 << 20)
    assert steps.look() == (1, False), "the undo steps can run"
    assert (names(operation), size_of(operation.resource_id), steps.rows_lost) == (["one"], 1 << 20, True)


def test_the_end_and_the_last_rows_are_one_transaction(fresh_database: str) -> None:
    operation = entered()
    with pytest.raises(RuntimeError):
        records.finish(operation.id, 1, None, [lambda: break_down(operation.resource_id)])
    assert (Operation.get_by_id(operation.id).state, size_of(operation.resource_id)) == ("running", 1 << 20)


def test_an_attempt_that_was_overtaken_changes_no_rows(fresh_database: str) -> None:
    operation = entered()
    stale = Journal(operation)
    write = [lambda: grow(operation.resource_id)]
    stale.finished("one", {"value": 1}, write)
    assert records.enter(operation.id, "here") is not None
    assert stale.look() == (2, False)
    assert not records.finish(operation.id, 1, None, write)
    assert size_of(operation.resource_id) == 1 << 20


def test_a_body_that_an_outage_has_stopped_changes_its_rows_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostler_control.outage.RETRY_AFTER_S", 0)
    tried: list[str] = []

    @body
    def _(run: Run) -> None:
        def once_more() -> None:
            run.defer_write(lambda: grow(run.resource_id))
            tried.append("one")
            if len(tried) == 1:
                raise peewee.OperationalError("database is locked")

        run.step("one", once_more)

    operation = started(engine, new_volume())
    assert ended(engine, operation).state == "succeeded"
    assert (len(tried), size_of(operation.resource_id)) == (2, (1 << 20) + 1)


def test_a_bug_in_the_rows_of_a_step_undoes_it(engine: Engine) -> None:
    done: list[str] = []

    @body
    def _(run: Run) -> None:
        with run.undoing() as undo:
            undo.push("undo", lambda: done.append("undone"))
            run.step("one", lambda: run.defer_write(lambda: break_down(run.resource_id)))
            run.step("two", lambda: done.append("two"))

    operation = started(engine, new_volume())
    row = ended(engine, operation)
    assert (row.state, done, size_of(operation.resource_id)) == ("failed", ["undone"], 1 << 20)
    assert "RuntimeError" in row.error


def test_so_does_one_in_rows_that_are_to_stay(engine: Engine) -> None:
    done: list[str] = []

    @body
    def _(run: Run) -> None:
        with run.undoing() as undo:
            undo.push("undo", lambda: done.append("undone"))
            run.step("one", lambda: run.defer_write(lambda: break_down(run.resource_id)))
            undo.clear()

    operation = started(engine, new_volume())
    assert (ended(engine, operation).state, done) == ("failed", ["undone"])
    assert size_of(operation.resource_id) == 1 << 20


@pytest.mark.parametrize("further", [False, True])
def test_so_does_a_bug_in_the_rows_of_the_last_step_of_a_block(engine: Engine, further: bool) -> None:
    """further: another step comes after the block."""
    done: list[str] = []

    @body
    def _(run: Run) -> None:
        with run.undoing() as outer:
            outer.push("undo-last", lambda: done.append("last"))
            with run.undoing() as undo:
                undo.push("undo-first", lambda: done.append("first"))
                run.step("one", lambda: run.defer_write(lambda: break_down(run.resource_id)))
        if further:
            run.always("two", lambda: done.append("two"))

    operation = started(engine, new_volume())
    row = ended(engine, operation)
    assert (row.state, done, size_of(operation.resource_id)) == ("failed", ["first", "last"], 1 << 20)
    assert "RuntimeError" in row.error
    assert Volume.get_by_id(operation.resource_id).operation_id == ""


def test_a_block_whose_rows_are_written_is_not_undone_by_what_comes_after_it(engine: Engine) -> None:
    done: list[str] = []

    def fail() -> None:
        raise FailedPreconditionError("no", "NO_WAY")

    @body
    def _(run: Run) -> None:
        with run.undoing() as undo:
            undo.push("undo", lambda: done.append("undone"))
            run.step("one", lambda: run.defer_write(lambda: grow(run.resource_id)))
        run.step("two", fail)

    operation = started(engine, new_volume())
    assert ended(engine, operation).state == "failed"
    assert (done, size_of(operation.resource_id)) == ([], (1 << 20) + 1)


def test_a_process_that_stops_before_they_are_written_leaves_them_to_the_next(
    sqlite_database: str, tmp_path: Path
) -> None:
    volume, stands, go_on = new_volume(), threading.Event(), threading.Event()

    @body
    def _(run: Run) -> None:
        run.step("one", lambda: run.defer_write(lambda: grow(run.resource_id)))
        if run.attempt == 1:
            stands.set()
            go_on.wait(20)

    first = new_engine(tmp_path)
    first.start()
    operation = started(first, volume)
    assert stands.wait(20)
    assert size_of(operation.resource_id) == 1 << 20
    overtaking = threading.Thread(target=first.run, args=(operation.id,))
    overtaking.start()
    wait_until(lambda: size_of(operation.resource_id) == (1 << 20) + 1)
    go_on.set()
    overtaking.join(20)
    assert ended(first, operation).attempt == 2
    first.stop()
    assert size_of(operation.resource_id) == (1 << 20) + 1, "the first attempt wrote nothing"


@pytest.mark.parametrize("further", [False, True])
def test_a_process_that_stops_while_lost_rows_are_undone_leaves_that_to_the_next(
    sqlite_database: str, tmp_path: Path, further: bool
) -> None:
    """further: another step comes after the one whose rows are lost."""
    volume, stands, go_on, done = new_volume(), threading.Event(), threading.Event(), list[str]()

    @body
    def _(run: Run) -> None:
        def undo_one() -> None:
            done.append(f"undone by {run.attempt}")
            if run.attempt == 1:
                stands.set()
                go_on.wait(20)

        with run.undoing() as outer:
            outer.push("undo-zero", lambda: done.append(f"left by {run.attempt}"))
            run.step("zero", lambda: None)
            with run.undoing() as undo:
                undo.push("undo-one", undo_one)
                run.step("one", lambda: run.defer_write(lambda: break_down(run.resource_id)))
            if further:
                outer.push("undo-two", lambda: done.append(f"two by {run.attempt}"))
                run.step("two", lambda: None)

    first = new_engine(tmp_path)
    first.start()
    operation = started(first, volume)
    assert stands.wait(20)
    overtaking = threading.Thread(target=first.run, args=(operation.id,))
    overtaking.start()
    overtaking.join(20)
    go_on.set()
    row = ended(first, operation)
    assert (row.state, row.attempt) == ("failed", 2)
    assert "recording" in row.error
    assert "another release" not in row.error
    assert [one for one in done if one.endswith("2")] == ["undone by 2", "left by 2"]
    assert [step.number for step in journal.read(operation.id)] == [*range(len(names(operation)))], "no gap"
    assert names(operation)[:2] == ["zero", "one"]
    first.stop()
    assert size_of(operation.resource_id) == 1 << 20


def test_an_outcome_that_cannot_be_recorded_leaves_no_gap(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = entered()
    steps = Journal(operation)
    steps.finished("one", {"value": 1})
    with monkeypatch.context() as broken:
        broken.setattr(journal, "_record", lambda *_: break_down(operation.resource_id))
        with pytest.raises(RuntimeError):
            steps.look()
    steps.finished("two", {"value": 2})
    assert steps.look() == (1, False)
    steps.finished("undo", {"value": None})
    assert steps.look() == (1, False)
    assert [(step.number, step.name, "error" in step.outcome) for step in journal.read(operation.id)] == [
        (0, "one", True)
    ]


def test_what_a_step_does_after_a_long_job_is_left_to_the_attempt_that_took_over(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostler_control.operations.run._LONG_S", 0.0)
    answered, go_on, done = threading.Event(), threading.Event(), list[int]()

    def slow_job(*given: Any) -> JobUpdate:
        if not answered.is_set():
            answered.set()
            go_on.wait(20)
        return JobUpdate()

    monkeypatch.setattr("ostler_control.operations.run.run_job", slow_job)

    @body
    def _(run: Run) -> None:
        def ask_and_record() -> None:
            run.job(HostAddress("id", "h1", "127.0.0.1:1"), lambda agent: agent.vms.StopVm, StopVmRequest())
            done.append(run.attempt)

        run.step("one", ask_and_record)

    operation = started(engine, new_volume())
    assert answered.wait(20)
    engine.run(operation.id)
    go_on.set()
    assert ended(engine, operation).attempt == 2
    wait_until(lambda: not engine._starter.knows(operation.id))
    assert done == [2]
