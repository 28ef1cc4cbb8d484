"""How many statements recording a VM's creation takes: what limits how many are created per second.
`test_execution_cost` counts what carrying it out takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ostler.control.v1 import vm_pb2
from ostler_control.api.start_operation import start_operation
from ostler_control.database import transaction
from ostler_control.models import Operation, Request, Vm, db, new_id
from ostler_control.operations import Engine, launch
from ostler_control.operations.records import next_id, reserving

from tests.sites import Site, outcome

# A further one needs a reason.
MAX_TO_RECORD = 13


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
    """The first one makes a key-encryption key, and has it counted what the account has."""
    with transaction():
        first = site.new_vm("first")
    with counted(monkeypatch, {threading.get_ident()}) as to_record, transaction():
        operation = site.new_vm("a")
    assert len(to_record) <= MAX_TO_RECORD, "\n".join(to_record)
    for one in (first, operation):
        launch(one)
        assert outcome(engine, one) == ("succeeded", "")


def test_a_request_is_written_with_its_operation(site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    request = vm_pb2.CreateVmRequest(name="a", request_id=new_id())
    with counted(monkeypatch, {threading.get_ident()}) as seen:
        first = start_operation(site.admin(), request, lambda: site.new_vm("a"))
    assert not [text for text in seen if text.startswith('UPDATE "request"')], "the operation's id was not known before"
    row = Request.get(Request.request_id == request.request_id)
    assert first.name == f"operations/{row.resource_id}"
    with reserving("first"):
        assert next_id() == "first"
        assert next_id() != "first"
    with reserving("unused"):
        pass
    assert next_id() != "unused"
    assert outcome(engine, Operation.get_by_id(row.resource_id)) == ("succeeded", "")


def test_a_failed_look_is_not_written_twice(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch, {threading.get_ident()}) as seen:
        monkeypatch.setattr("peewee.BaseQuery.sql", lambda _: pytest.fail("it was written for an error"))
        assert Vm.get_or_none(Vm.id == "none") is None
        assert Operation.get_or_none(Operation.id == "none", Operation.verb == "none") is None
    assert len(seen) == 2
