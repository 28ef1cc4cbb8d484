"""Lists of operations: their responses name the resource, and the number of queries does not grow with the rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ostler.control.v1 import host_pb2, import_plan_pb2, vm_pb2, volume_pb2
from ostler_control import database
from ostler_control.api.convert import operations as convert
from ostler_control.models import Account, Cluster, Host, Operation, Pool, Volume, Zone, db
from ostler_control.states import OperationState

from tests import databases
from tests.unit.control import calls


@pytest.fixture(autouse=True)
def in_session(tmp_path: Path) -> Iterator[None]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite"), database.session():
        yield


@contextmanager
def noted() -> Iterator[list[str]]:
    """The statements that are executed inside."""
    statements: list[str] = []
    execute = db.obj.execute_sql

    def noting(sql: str, *args: Any) -> Any:
        statements.append(sql)
        return execute(sql, *args)

    db.obj.execute_sql = noting
    try:
        yield statements
    finally:
        del db.obj.execute_sql


def ended(verb: str, resource_id: str, name: str) -> Operation:
    row: Operation = Operation.create(
        verb=verb,
        resource_type=verb.split(".", 1)[0],
        resource_id=resource_id,
        resource_name=name,
        user="alice",
        state=OperationState.SUCCEEDED,
    )
    return row


def one_of_each(number: int) -> list[Operation]:
    """Ended operations, whose hosts and volumes exist."""
    zone = Zone.create(name=f"z{number}")
    host = Host.create(name=f"h{number}", address="x", cluster=Cluster.create(name=f"c{number}", zone=zone))
    pool = Pool.create(name=f"p{number}", type="local", scope="host", scope_id=host.id)
    volume = Volume.create(name="v", account=Account.create(name=f"a{number}"), pool=pool, size_bytes=1 << 20)
    return [
        ended("host.fence", host.id, host.name),
        ended("volume.grow", volume.id, volume.name),
        *(ended(f"{noun}.test", f"id-{noun}", noun) for noun in ("vm", "snapshot", "template", "drs", "import-plan")),
        ended("key.rotate", "kek-1", "kek-1"),
    ]


@pytest.mark.parametrize("is_admin", [True, False], ids=["admin", "member"])
def test_the_number_of_queries_does_not_grow(is_admin: bool) -> None:
    caller = calls.admin() if is_admin else calls.user("mia", Account.create(name="acme"))
    few = one_of_each(0)
    many = few + [row for number in range(1, 5) for row in one_of_each(number)]
    counts = []
    for rows in (few, many):
        with noted() as statements:
            assert len(convert.operations(rows, caller)) == len(rows)
        counts.append(len(statements))
    assert counts[0] == counts[1]
    assert counts[0] == 0 or not is_admin


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("vm.start", vm_pb2.Vm(id="id", name="thing")),
        ("host.fence", host_pb2.Host(id="id", name="thing")),
        ("volume.grow", volume_pb2.Volume(id="id", name="thing")),
        ("import-plan.run", import_plan_pb2.ImportPlan(id="id", name="thing")),
    ],
)
def test_a_list_names_the_resource(verb: str, message: Any) -> None:
    [listed] = convert.operations([ended(verb, "id", "thing")], calls.admin())
    answer = type(message)()
    assert listed.response.Unpack(answer)
    assert answer == message


def test_a_single_operation_answers_with_the_whole_resource() -> None:
    fence = next(row for row in one_of_each(0) if row.verb == "host.fence")
    host = host_pb2.Host()
    assert convert.operation(fence, calls.admin()).response.Unpack(host)
    assert (host.cluster_name, host.zone_name) == ("c0", "z0")
