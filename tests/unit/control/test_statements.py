"""Statements are written as peewee would write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ostler_control import database
from ostler_control.database import locked
from ostler_control.models import ALL, Cluster, Host, Nic, Operation, Vm, VmState, Volume, Zone, db, now
from ostler_control.statements import FastContext
from peewee import JOIN, Case, Context, Field, Query, fn

TIME = now()
OTHER = Vm.alias("other")

QUERIES: dict[str, Callable[[], Query]] = {
    "by id": lambda: Vm.select().where(Vm.id == "x").limit(1),
    "negated": lambda: Host.select().where(~Host.removed, Host.state != "up"),
    "null": lambda: Vm.select(Vm.id).where(Vm.host.is_null() | (Vm.host == "h")),
    "in a list": lambda: Vm.select().where(Vm.id.in_(["a", "b"]), Vm.state.not_in(())),
    "in a set": lambda: Vm.select().where(Vm.state.in_({"running"}), Vm.cpus.not_in((1, 2, 3))),
    "in mixed values": lambda: Host.select().where(Host.cluster.in_([None, "c"]), Host.enabled.in_([True])),
    "in rows": lambda: Host.select(Host.id).where(Host.cluster.in_([Cluster(id="c"), Cluster(id="d")])),
    "in an expression": lambda: Host.select(Host.id).where((Host.cpus + 1).in_([2, 3])),
    "in converted values": lambda: Vm.select(Vm.id).where(Vm.state.in_([VmState.RUNNING, VmState.STOPPED])),
    "in a function": lambda: Vm.select(Vm.id).where(fn.LOWER(Vm.name).in_(["a", "b"])),
    "joins": lambda: Host.select(Host, Cluster, Zone).join(Cluster).join(Zone).where(Zone.name == "z"),
    "outer join": lambda: Nic.select(Nic.id, Vm.name).join(Vm, JOIN.LEFT_OUTER).order_by(Nic.position.desc()),
    "subquery": lambda: Volume.select().where(Volume.vm_id.in_(Vm.select(Vm.id).where(Vm.host == "h"))),
    "correlated": lambda: Vm.select(Vm.id).where(fn.EXISTS(Nic.select(Nic.id).where(Nic.vm == Vm.id))),
    "alias of a table": lambda: Vm.select(Vm.id).join(OTHER, on=(OTHER.host == Vm.host)).where(OTHER.id == "x"),
    "aggregates": lambda: Vm.select(Vm.host, fn.COUNT(Vm.id).alias("n")).group_by(Vm.host).having(fn.SUM(Vm.cpus) > 2),
    "case": lambda: Vm.select(Case(None, ((Vm.cpus > 2, Vm.cpus * 2),), 1)).distinct(),
    "union": lambda: Vm.select(Vm.id).where(Vm.cpus == 1) | Vm.select(Vm.id).where(Vm.cpus == 2),
    "locked": lambda: locked(Vm.select().where(Vm.id == "x")),
    "update": lambda: Host.update(allocated_cpus=Host.allocated_cpus + 2, state="up").where(Host.id == "x"),
    "update by subquery": lambda: Vm.update(cpus=2).where(Vm.host.in_(Host.select(Host.id).where(Host.removed))),
    "delete": lambda: Operation.delete().where(Operation.end_time < TIME),
    "insert": lambda: Zone.insert(name="z"),
    "insert many": lambda: Zone.insert_many([{"name": "a"}, {"name": "b"}]),
    "insert or not": lambda: Zone.insert(name="z").on_conflict_ignore(),
    "insert or update": lambda: Zone.insert(name="z").on_conflict(conflict_target=[Zone.name], update={Zone.name: "y"}),
}


@pytest.fixture(params=["sqlite:////nowhere", "postgresql://nobody@localhost/nothing"])
def unopened(request: pytest.FixtureRequest) -> None:
    """A database that only says how statements are written."""
    database.connect(request.param)


def written(make: Callable[[], Query], by: type[Context]) -> tuple[str, list[object]]:
    db.obj.context_class = by
    text, values = make().sql()
    # New ids and times differ from one statement to the next.
    return text, [type(value) for value in values] if text.startswith("INSERT") else values


@pytest.mark.parametrize("name", QUERIES)
def test_a_statement_is_as_peewee_writes_it(name: str, unopened: None) -> None:
    assert written(QUERIES[name], FastContext) == written(QUERIES[name], Context)


def test_every_column_of_every_table(unopened: None) -> None:
    for model in ALL:
        assert written(model.select, FastContext) == written(model.select, Context)


def test_a_connected_database_uses_it(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def column(self: FastContext, field: Field) -> Context:
        asked.append(field.name)
        return self

    monkeypatch.setattr(FastContext, "_column", column)
    Zone.select(Zone.name).sql()
    assert asked == ["name"]
