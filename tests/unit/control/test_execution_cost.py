"""How many statements and transactions it takes to carry a VM's creation out: what limits how many are created per
second. `test_create_cost` counts what recording it takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from ostler_control.models import db
from ostler_control.operations import Engine

from tests.sites import Site, outcome

# A further one needs a reason.
MAX_STATEMENTS, MAX_TRANSACTIONS = 17, 3


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> Iterator[list[str]]:
    """The statements executed inside by the threads that run operations, and BEGIN for each transaction."""
    seen: list[str] = []
    threads = set[int]()
    carry_out, execute, begin = engine.run, db.obj.execute_sql, db.obj.begin

    def in_thread(operation_id: str) -> None:
        threads.add(threading.get_ident())
        carry_out(operation_id)

    # Any: peewee's parameters and cursor.
    def noted(text: str, *args: Any, **options: Any) -> Any:
        if threading.get_ident() in threads:
            seen.append(text)
        return execute(text, *args, **options)

    def begun(*args: Any, **options: Any) -> Any:
        if threading.get_ident() in threads:
            seen.append("BEGIN")
        return begin(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(engine._starter, "_run", in_thread)
        patched.setattr(db.obj, "execute_sql", noted)
        patched.setattr(db.obj, "begin", begun)
        yield seen


def is_of_a_slow_machine(text: str) -> bool:
    """How often a step looks whether it is cancelled, and reports, depends on how long it takes."""
    return text.startswith('SELECT "t1"."attempt", "t1"."cancel_requested"') or 'SET "phase"' in text


def test_a_create_is_carried_out_with_few_statements(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(monkeypatch, engine) as seen:
        operation = site.record(lambda: site.new_vm("a"))
        assert outcome(engine, operation) == ("succeeded", "")
    statements = [text for text in seen if text != "BEGIN" and not is_of_a_slow_machine(text)]
    assert len(statements) <= MAX_STATEMENTS, "\n".join(statements)
    begun = [next_one for text, next_one in pairwise(seen) if text == "BEGIN" and not is_of_a_slow_machine(next_one)]
    assert len(begun) <= MAX_TRANSACTIONS, "\n".join(seen)
