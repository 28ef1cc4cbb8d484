"""How many statements a VM's creation takes: what limits how many are created per second."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ostler_control.database import transaction
from ostler_control.models import Operation, Vm, db
from ostler_control.operations import Engine, launch
from ostler_control.operations.run import Run

from tests.sites import Site, outcome

# A further one needs a reason.
MAX_TO_RECORD, MAX_TO_RUN = 24, 20


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, operation_threads: set[int]) -> Iterator[list[str]]:
    """The statements executed inside by these threads."""
    seen: list[str] = []
    execute = db.obj.execute_sql

    # Any: peewee's parameters and cursor.
    def noted(text: str, *args: Any, **options: Any) -> Any:
        if threading.get_ident() in operation_threads:
            seen.append(text)
        return execute(text, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(db.obj, "execute_sql", noted)
        yield seen


def test_a_create_takes_few_statements(site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch, {threading.get_ident()}) as to_record, transaction():
        operation = site.new_vm("a")
    assert len(to_record) <= MAX_TO_RECORD, "\n".join(to_record)
    threads = set[int]()
    journaled = Run._journaled

    def in_thread(self: Run, *args: Any, **options: Any) -> Any:
        threads.add(threading.get_ident())
        return journaled(self, *args, **options)

    monkeypatch.setattr(Run, "_journaled", in_thread)
    with counted(monkeypatch, threads) as to_run:
        launch(operation)
        assert outcome(engine, operation) == ("succeeded", "")
    # How often a step looks whether it is cancelled, and reports, depends on how long it takes.
    without_looks = [text for text in to_run if '"cancel_requested"' not in text and 'SET "phase"' not in text]
    assert len(without_looks) <= MAX_TO_RUN, "\n".join(without_looks)


def test_a_failed_look_is_not_written_twice(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch, {threading.get_ident()}) as seen:
        monkeypatch.setattr("peewee.BaseQuery.sql", lambda _: pytest.fail("it was written for an error"))
        assert Vm.get_or_none(Vm.id == "none") is None
        assert Operation.get_or_none(Operation.id == "none", Operation.verb == "none") is None
    assert len(seen) == 2
