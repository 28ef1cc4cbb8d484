"""Migrations of settings, events and operations."""

from __future__ import annotations

import peewee
import pytest
from ostler_control import database
from ostler_control.events import verify
from ostler_control.models import Event, Kek, Operation, OperationStep, Vm, db
from ostler_control.operations.records import HELD, release

from tests.unit.control.migrations.old_rows import OLD_VM, up_to

pytestmark = pytest.mark.usefixtures("unmigrated_database")


def test_settings_keep_their_values_when_they_get_scopes() -> None:
    up_to("0001_first")
    for row_id, cluster_id, value in (("a", "", "30"), ("b", "c1", "5")):
        db.execute_sql(
            "INSERT INTO setting_value (id, create_time, name, cluster_id, value) "
            "VALUES (?, '2026-01-01', 'vm.stop.timeout', ?, ?)",
            (row_id, cluster_id, value),
        )
    database.migrate()
    rows = db.execute_sql("SELECT id, name, scope, scope_id, value FROM setting_value ORDER BY id").fetchall()
    assert rows == [
        ("a", "vm.stop.timeout", "global", "", "30"),
        ("b", "vm.stop.timeout", "cluster", "c1", "5"),
    ]


def test_events_from_before_the_chain_are_linked_in_their_order() -> None:
    up_to("0017_drs_conditions")
    for name, day in (("late", 2), ("early", 1)):
        db.execute_sql(
            "INSERT INTO event (id, create_time, type, outcome, actor, resource_type, resource_id, "
            "resource_name, account_id, message, operation_id) "
            "VALUES (?, ?, 'vm.start', 'started', 'ada', 'vm', 'v', 'web', '', '', '')",
            (name, f"2026-01-0{day} 00:00:00"),
        )
    assert "0018_event_chain" in database.migrate()
    assert (verify.verify().checked_count, verify.verify().first_break) == (2, None)
    assert [row.id for row in Event.select().order_by(Event.sequence)] == ["early", "late"]


def test_an_operation_finds_what_it_holds_by_indexes() -> None:
    up_to("0030_vm_snapshots", OLD_VM)
    db.execute_sql("UPDATE vm SET operation_id = 'o' WHERE id = 'v'")
    assert "0033_held_indexes" in database.migrate()
    for model in HELD:
        if model is not Kek:  # there are a few
            query, _ = model.update(operation_id="").where(model.operation_id == "o").sql()
            plan = db.execute_sql(f"EXPLAIN QUERY PLAN {query}", ("", "o")).fetchall()
            assert "USING INDEX" in plan[0][3], f"{model.__name__}: {plan[0][3]}"
    assert Vm.get_by_id("v").operation_id == "o"
    release("o")
    assert Vm.get_by_id("v").operation_id == ""


def test_operations_get_steps() -> None:
    up_to("0037_vm_snapshot_memory")
    old = Operation.create(verb="vm.start", resource_type="vm", resource_id="v", user="alice", attempt=1)
    assert "0038_operation_steps" in database.migrate()
    OperationStep.insert(operation=old, number=0, name="one", outcome="{}").execute()
    with pytest.raises(peewee.IntegrityError):
        OperationStep.insert(operation=old, number=0, name="other", outcome="{}").execute()
    Operation.delete().execute()
    assert OperationStep.select().count() == 0
