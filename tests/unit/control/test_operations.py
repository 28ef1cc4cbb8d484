"""The engine: durable, cancellable, exclusive, and silent about secrets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ostler_common.errors import AbortedError, FailedPreconditionError
from ostler_common.secret import Secret
from ostler_common.tls import TlsFiles
from ostler_control.agents import Agents
from ostler_control.database import session, transaction
from ostler_control.keys import FileProvider, Keyring, create_key_file
from ostler_control.models import Account, Event, Operation, Pool, Volume, new_id, now
from ostler_control.operations import Engine, Run, launch, record_operation, replica_id, workflow
from ostler_control.operations.records import error_from_json

Body = Callable[[Run], None]
_body: Body = lambda run: None  # noqa: E731


@workflow("volume.test")
def _run(run: Run) -> None:
    _body(run)


def body(new: Body) -> Body:
    """What the verb volume.test does from now on."""
    global _body
    _body = new
    return new


def wait_for(event: threading.Event) -> None:
    event.wait(20)


def new_engine(state_dir: Path, limit: int = 64) -> Engine:
    create_key_file(state_dir / "kek")
    tls = TlsFiles(state_dir / "none", state_dir / "none", state_dir / "none")
    keys = Keyring(FileProvider(state_dir / "kek"))
    return Engine(replica_id(state_dir), Agents(tls), keys, state_dir / "templates", limit=limit)


def lone_engine(sqlite_database: str, tmp_path: Path) -> Iterator[Engine]:
    """One without a fleet."""
    found = new_engine(tmp_path)
    found.start()
    yield found
    found.stop()


engine = pytest.fixture(lone_engine)


def new_volume() -> Any:
    pool = Pool.create(name="p", type="local", scope="host", scope_id=new_id())
    return Volume.create(name="data", account=Account.create(name="acme"), pool=pool, size_bytes=1 << 20)


def started(engine: Engine, volume: Any, **inputs: object) -> Operation:
    with transaction():
        operation = record_operation("volume.test", volume, "alice", inputs)
    engine.launch(operation)
    return operation


def ended(engine: Engine, operation: Any) -> Any:
    row: Any = engine.wait(operation.id, 20)
    assert row.state in ("succeeded", "failed", "cancelled"), row.state
    return row


def test_an_operation_that_succeeds(engine: Engine) -> None:
    volume = new_volume()
    seen: list[object] = []

    @body
    def _(run: Run) -> None:
        seen.append((run.read(dict), run.attempt, run.ref().id))
        seen.append(run.step("one", lambda: {"a": [1, "x"]}))
        run.step("two", lambda: run.phase("half done", 50))

    row = ended(engine, started(engine, volume, size_bytes=5))
    assert (row.state, row.percent, row.error, row.attempt) == ("succeeded", 100, "", 1)
    assert seen == [({"size_bytes": 5}, 1, f"{row.id}."), {"a": [1, "x"]}]
    assert Volume.get_by_id(volume.id).operation_id == ""
    events = [(event.type, event.outcome, event.actor) for event in Event.select().order_by(Event.create_time)]
    assert events == [("volume.test", "started", "alice"), ("volume.test", "succeeded", "alice")]


def test_a_failure_is_undone_last_first_and_kept_as_a_status(engine: Engine) -> None:
    volume = new_volume()
    undone: list[str] = []

    def fail() -> None:
        raise FailedPreconditionError("the disk is on fire", "ON_FIRE", {"disk": "vda"})

    def fail_too() -> None:
        undone.append("two")
        fail()

    @body
    def _(run: Run) -> None:
        with run.undoing() as undo:
            undo.push("undo-one", lambda: undone.append("one"))
            run.step("one", lambda: None)
            undo.push("undo-two", fail_too)
            run.step("two", fail)

    row = ended(engine, started(engine, volume))
    error = error_from_json(row.error)
    assert (row.state, type(error), error.reason) == ("failed", FailedPreconditionError, "ON_FIRE")
    assert error.metadata == {"disk": "vda"}
    assert undone == ["two", "one"]
    assert Volume.get_by_id(volume.id).operation_id == ""


def test_one_operation_at_a_time(engine: Engine) -> None:
    volume = new_volume()
    go_on = threading.Event()
    body(lambda run: run.step("wait", lambda: wait_for(go_on)))
    operation = started(engine, volume)
    with pytest.raises(AbortedError) as caught:
        started(engine, volume)
    assert (caught.value.reason, caught.value.metadata["operation"]) == ("RESOURCE_BUSY", operation.id)
    assert Operation.select().count() == 1
    go_on.set()
    ended(engine, operation)
    ended(engine, started(engine, volume))


def test_cancelling_between_steps_undoes(engine: Engine) -> None:
    volume = new_volume()
    begun, go_on, undone = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait(20)

    @body
    def _(run: Run) -> None:
        with run.undoing() as undo:
            undo.push("undo", undone.set)
            run.step("first", wait)
            run.step("never", lambda: pytest.fail("it was cancelled"))

    operation = started(engine, volume)
    assert begun.wait(20)
    engine.cancel(operation.id)
    go_on.set()
    row = ended(engine, operation)
    assert (row.state, error_from_json(row.error).reason) == ("cancelled", "CANCELLED")
    assert undone.is_set()
    engine.cancel(operation.id)
    assert ended(engine, operation).state == "cancelled"


def test_waiting_feels_instant_and_gives_up_in_time(engine: Engine) -> None:
    volume = new_volume()
    go_on = threading.Event()
    body(lambda run: run.step("wait", lambda: wait_for(go_on)))
    operation = started(engine, volume)
    record_operation = time.monotonic()
    assert engine.wait(operation.id, 0.05).state in ("pending", "running")
    assert time.monotonic() - record_operation < 1
    woken: list[float] = []
    waiter = threading.Thread(target=lambda: woken.append((ended(engine, operation), time.monotonic())[1]))
    waiter.start()
    go_on.set()
    waiter.join()
    assert woken


@pytest.mark.parametrize("where", ["step", "between"])
def test_a_bug_says_what_kind_and_nothing_else(engine: Engine, where: str) -> None:
    volume = new_volume()

    def bug() -> None:
        raise ValueError("hunter2")

    body(lambda run: run.step("bug", bug) if where == "step" else bug())
    row = ended(engine, started(engine, volume))
    assert row.state == "failed"
    assert "ValueError" in row.error
    assert "hunter2" not in row.error


def test_a_secret_cannot_be_a_steps_answer(sqlite_database: str, tmp_path: Path) -> None:
    volume = new_volume()
    engine = new_engine(tmp_path)
    engine.start()

    @body
    def _(run: Run) -> None:
        run.step("leak", lambda: Secret(b"hunter2"))

    row = ended(engine, started(engine, volume))
    engine.stop()
    assert row.state == "failed"
    for path in tmp_path.iterdir():
        assert b"hunter2" not in path.read_bytes(), path


def test_what_was_stopped_is_gone_on_with(fresh_database: str, tmp_path: Path) -> None:
    volume = new_volume()
    begun, go_on = threading.Event(), threading.Event()
    ran: list[str] = []

    def second() -> None:
        ran.append("second")
        begun.set()
        go_on.wait(20)

    @body
    def _(run: Run) -> None:
        run.step("first", lambda: ran.append("first"))
        run.step("second", second)
        run.step("third", lambda: ran.append(f"third by attempt {run.attempt}"))

    engine = new_engine(tmp_path)
    engine.start()
    operation = started(engine, volume)
    assert begun.wait(20)
    threading.Timer(0.2, go_on.set).start()
    engine.stop()
    row = Operation.get_by_id(operation.id)
    assert (row.state, Volume.get_by_id(volume.id).operation_id) == ("running", operation.id)

    engine = new_engine(tmp_path)
    engine.start()
    assert ended(engine, operation).state == "succeeded"
    engine.stop()
    assert ran[0] == "first"
    assert ran.count("first") == 1
    assert ran[-1] == "third by attempt 2"


def test_what_was_recorded_and_never_begun_is_begun_at_launch(fresh_database: str, tmp_path: Path) -> None:
    volume = new_volume()
    body(lambda run: run.step("one", lambda: None))
    with transaction():
        operation = record_operation("volume.test", volume, "alice", {})
    engine = new_engine(tmp_path)
    engine.start()
    assert ended(engine, operation).state == "succeeded"
    engine.stop()


def test_the_rest_queues_can_be_cancelled_and_outlives_the_process(fresh_database: str, tmp_path: Path) -> None:
    pool, account = Pool.create(name="p", type="local", scope="host", scope_id=new_id()), Account.create(name="acme")
    volumes = [Volume.create(name=f"v{n}", account=account, pool=pool, size_bytes=1 << 20) for n in range(6)]
    go_on, lock = threading.Event(), threading.Lock()
    running, most, ran = 0, 0, list[str]()

    def work(run: Run) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        wait_for(go_on)
        with lock:
            running -= 1
            ran.append(run.resource_id)

    body(lambda run: run.step("one", lambda: work(run)))
    engine = new_engine(tmp_path, limit=2)
    engine.start()
    operations = [started(engine, volume) for volume in volumes]
    eventually(lambda: running == 2)
    states = [Operation.get_by_id(operation.id).state for operation in operations]
    assert sorted(states) == ["pending"] * 4 + ["running"] * 2
    engine.cancel(operations[5].id)
    assert ended(engine, operations[5]).state == "cancelled"
    assert Operation.get_by_id(operations[4].id).state == "pending"
    threading.Timer(0.2, go_on.set).start()
    engine.stop()

    engine = new_engine(tmp_path, limit=2)
    engine.start()
    assert {ended(engine, operation).state for operation in operations[:5]} == {"succeeded"}
    engine.stop()
    assert set(ran) == {str(volume.id) for volume in volumes[:5]}
    assert most == 2


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_launching_twice_runs_once(engine: Engine) -> None:
    volume = new_volume()
    ran: list[int] = []
    body(lambda run: run.step("one", lambda: ran.append(1)))
    operation = started(engine, volume)
    engine.launch(operation)
    ended(engine, operation)
    engine.launch(operation)
    assert ran == [1]
    with session():
        assert Operation.get_by_id(operation.id).attempt == 1
    assert operation.create_time <= now()


def test_an_operation_whose_start_fails_is_started_by_a_sweep(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = new_volume()
    body(lambda run: None)
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "launch", lambda *_: (_ for _ in ()).throw(RuntimeError("the journal is away")))
        with transaction():
            operation = record_operation("volume.test", volume, "alice", {})
        launch(operation)  # raises nothing: the operation is recorded
    engine._sweep(unstarted_age_s=0)
    assert ended(engine, operation).state == "succeeded"
