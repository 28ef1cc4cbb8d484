"""The rows of operations, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ostler_control.database import is_sqlite, transaction
from ostler_control.models import OperationState, Vm, Volume, db
from ostler_control.operations import record_operation, records

from tests.fleets import add_disks, fill, make_fleet


@contextmanager
def on_the_way(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What goes to the database inside, but for the ends of transactions."""
    seen: list[str] = []
    execute, begin = db.obj.execute_sql, db.obj.begin

    # Any: peewee's parameters and cursor.
    def noted(text: str, *values: Any) -> Any:
        seen.append(text)
        return execute(text, *values)

    def begun() -> None:
        seen.append("BEGIN")
        begin()

    with monkeypatch.context() as patched:
        patched.setattr(db.obj, "execute_sql", noted)
        patched.setattr(db.obj, "begin", begun)
        yield seen


def test_all_that_an_operation_holds_is_released_and_nothing_else(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(1)
    fill(fleet, 3)
    add_disks(fleet)
    for number, vm in enumerate(Vm.select()):
        held = f"operation-{number % 2}"
        Vm.update(operation_id=held).where(Vm.id == vm.id).execute()
        Volume.update(operation_id=held).where(Volume.vm_id == vm.id).execute()
    with transaction(), on_the_way(monkeypatch) as seen:
        records.release("operation-0")
    for model in (Vm, Volume):
        assert sorted(row.operation_id for row in model.select()) == ["", "", "operation-1"]
    if not is_sqlite():
        assert len(seen) == 1
    with transaction():
        records.release("operation-1", [Volume])
    assert Vm.select().where(Vm.operation_id == "operation-1").count() == 1
    assert Volume.select().where(Volume.operation_id == "operation-1").count() == 0


def test_an_attempt_begins_by_one_way_to_postgresql_and_back(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(1)
    with transaction():
        operation = record_operation("account.test", fleet.account, "ada", {})
    db.close()
    try:
        with on_the_way(monkeypatch) as seen:
            entered = records.enter(operation.id, "here")
    finally:
        db.connect()
    assert entered is not None
    assert (entered.attempt, entered.state, entered.replica) == (1, OperationState.RUNNING, "here")
    if not is_sqlite():
        assert len(seen) == 1
    assert records.enter(operation.id, "elsewhere") is None
