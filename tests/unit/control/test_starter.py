"""Operations start in turn: so many of a kind at once, and none is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from ostler_control.operations import starter as module
from ostler_control.operations import verbs
from ostler_control.operations.starter import Kind, Starter

from tests.fakes.working_agent import wait_until

LIMIT = 3


class Started:
    """What was started, and its ends. broken: operations that fail by a bug; elsewhere: those that run elsewhere."""

    def __init__(self) -> None:
        self.ends: dict[str, threading.Event] = {}
        self.order: list[str] = []
        self.broken: set[str] = set()
        self.elsewhere: set[str] = set()
        self.lock = threading.Lock()

    def run(self, operation_id: str) -> None:
        with self.lock:
            self.order.append(operation_id)
            if operation_id in self.broken:
                raise RuntimeError("the database is away")
            if operation_id in self.elsewhere:
                return
            self.ends[operation_id] = end = threading.Event()
        end.wait(60)

    def running(self) -> set[str]:
        with self.lock:
            return {operation_id for operation_id, end in self.ends.items() if not end.is_set()}

    def end(self, operation_id: str) -> None:
        self.ends[operation_id].set()


@pytest.fixture
def started() -> Started:
    return Started()


@pytest.fixture
def starter(started: Started) -> Iterator[Starter]:
    found = Starter(started.run, LIMIT)
    found.start()
    yield found
    found.stop()
    for operation_id in started.running():
        started.end(operation_id)
    found.wait_until_idle(60)


def test_so_many_run_at_once_and_the_rest_follow_in_order(started: Started, starter: Starter) -> None:
    wanted = [f"c{number}" for number in range(10)]
    for operation_id in wanted:
        starter.put(operation_id, "vm.create")
    wait_until(lambda: len(started.order) == LIMIT)
    most = 0
    for operation_id in wanted:
        wait_until(lambda id_=operation_id: id_ in started.running())
        most = max(most, len(started.running()))
        started.end(operation_id)
    assert started.order == wanted
    assert most == LIMIT
    wait_until(lambda: not starter.knows("c9"))


def test_kinds_do_not_wait_for_each_other(started: Started, starter: Starter) -> None:
    for number in range(10):
        starter.put(f"c{number}", "vm.create")
    starter.put("s", "vm.start")
    starter.put("p", "drs.execute")
    starter.put("m", "vm.migrate")
    wait_until(lambda: {"s", "p", "m"} <= started.running())
    assert starter.room("vm.create") == 0
    assert starter.room("vm.start") == LIMIT - 1


def test_an_operation_put_twice_starts_once(started: Started, starter: Starter) -> None:
    for number in range(LIMIT):
        starter.put(f"c{number}", "vm.create")
    wait_until(lambda: len(started.order) == LIMIT)
    for operation_id in ("c0", "q", "q"):
        starter.put(operation_id, "vm.create")
    started.end("c1")
    wait_until(lambda: "q" in started.running())
    started.end("c2")
    started.end("q")
    starter.put("last", "vm.create")
    wait_until(lambda: "last" in started.running())
    assert started.order == ["c0", "c1", "c2", "q", "last"]


def test_what_was_begun_before_does_not_wait_for_its_turn(started: Started, starter: Starter) -> None:
    for number in range(LIMIT + 2):
        starter.put(f"c{number}", "vm.create")
    wait_until(lambda: len(started.order) == LIMIT)
    starter.put("adopted", "vm.create", under_way=True)
    starter.put("c0", "vm.create", under_way=True)
    wait_until(lambda: "adopted" in started.running())
    started.end("c1")
    started.end("c2")
    wait_until(lambda: "c3" in started.running())
    assert started.order == ["c0", "c1", "c2", "adopted", "c3"]


def test_after_a_stop_nothing_starts_and_what_runs_is_waited_for(started: Started) -> None:
    starter = Starter(started.run, 1)
    starter.start()
    for operation_id in ("c0", "c1"):
        starter.put(operation_id, "vm.create")
    wait_until(lambda: started.running() == {"c0"})
    starter.stop()
    starter.wait_until_idle(0)
    assert starter.knows("c0")
    started.end("c0")
    starter.wait_until_idle(60)
    assert started.order == ["c0"]
    assert starter.room("vm.create") == 0, "c1 still queues"


def test_one_to_be_cancelled_does_not_wait_for_its_turn(started: Started, starter: Starter) -> None:
    for number in range(LIMIT + 5):
        starter.put(f"c{number}", "vm.create")
    wait_until(lambda: len(started.order) == LIMIT)
    starter.hurry("c7")
    wait_until(lambda: "c7" in started.running())
    assert started.order == ["c0", "c1", "c2", "c7"]


def test_one_that_fails_or_runs_elsewhere_takes_no_place(started: Started, starter: Starter) -> None:
    started.broken, started.elsewhere = {"b0", "b1", "b2"}, {"e0", "e1", "e2"}
    for operation_id in ("b0", "b1", "b2", "e0", "e1", "e2", "c"):
        starter.put(operation_id, "vm.create")
    wait_until(lambda: started.running() == {"c"})
    wait_until(lambda: starter.room("vm.create") == LIMIT - 1)
    assert not starter.knows("b0")
    assert not starter.knows("e0")


def test_one_whose_failure_cannot_be_logged_takes_no_place(
    started: Started, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module.log, "exception", full)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    started.broken = {str(number) for number in range(LIMIT)}
    for number in range(LIMIT + 1):
        starter.put(str(number), "vm.create")
    wait_until(lambda: started.running() == {str(LIMIT)})
    assert not any(starter.knows(operation_id) for operation_id in started.broken)


def test_a_thread_whose_operation_has_ended_runs_the_next(started: Started, starter: Starter) -> None:
    threads = set[threading.Thread]()
    for number in range(5):
        starter.put(f"c{number}", "vm.create")
        wait_until(lambda id_=f"c{number}": id_ in started.running())
        threads |= {thread for thread in threading.enumerate() if thread.name == f"operation c{number}"}
        started.end(f"c{number}")
        wait_until(lambda: starter.room("vm.create") == LIMIT)
        wait_until(lambda: bool(starter._idle))
    assert len(threads) == 1
    starter.stop()
    (thread,) = threads
    thread.join(20)
    assert not thread.is_alive()


def test_a_thread_that_nothing_comes_for_ends(
    started: Started, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_S", 0.05)
    starter.put("c0", "vm.create")
    wait_until(lambda: started.running() == {"c0"})
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "operation c0"]
    started.end("c0")
    thread.join(20)
    assert (thread.is_alive(), starter._idle) == (False, [])
    starter.put("c1", "vm.create")
    wait_until(lambda: started.running() == {"c1"})


def test_one_that_gets_no_thread_is_left_to_a_sweep(
    started: Started, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        starter.put("c0", "vm.create")
        patched.setattr(module.log, "exception", refuse)
        with pytest.raises(RuntimeError):
            starter.put("c1", "vm.create")
    assert not starter.knows("c1")
    assert (starter.knows("c0"), starter.room("vm.create")) == (False, LIMIT)
    starter.put("c0", "vm.create")
    wait_until(lambda: started.running() == {"c0"})


def test_every_verb_that_is_named_exists() -> None:
    from ostler_control.api import work  # noqa: F401 - registers them

    named = {verb for kind in Kind for verb in kind.value}
    assert named - set(verbs._BODIES) == set()
    assert Kind.of("vm.stop") is Kind.CHANGE


def test_what_waits_for_other_operations_has_a_kind_of_its_own() -> None:
    assert {
        Kind.of(verb) for verb in ("drs.execute", "zone.balance-storage", "import-plan.execute", "backup.boot")
    } == {Kind.PLAN}
    others = {verb for verb in verbs._BODIES if Kind.of(verb) is Kind.PLAN}
    assert others <= {"drs.execute", "zone.balance-storage", "import-plan.execute", "backup.boot"}
