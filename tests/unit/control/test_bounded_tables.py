"""Weeks of work leave no table that only grows: what has ended goes when its time is over."""

from __future__ import annotations

import datetime
import sqlite3
from pathlib import Path

import pytest
from ostler_common import pki
from ostler_common.identity import Identity, Kind
from ostler_control import events, housekeeping, settings
from ostler_control.api import requests
from ostler_control.database import is_sqlite, transaction
from ostler_control.drs_plans import store as drs_store
from ostler_control.models import (
    ALL,
    Certificate,
    Cluster,
    DrsPlan,
    Event,
    JoinToken,
    Operation,
    OperationState,
    OperationStep,
    Replica,
    Request,
    Volume,
    Zone,
    db,
    new_id,
    now,
    tuples,
)
from ostler_control.operations import Engine, Run, records, replica_id, replicas
from ostler_control.settings import values
from ostler_control.states import Scope
from ostler_control.trust import certificates, tokens
from peewee import DateTimeField

from tests.unit.control import test_operations

DAY = datetime.timedelta(days=1)
RETENTION_DAYS = 7
# Certificates are kept longest: 7 days, and 30 after their end.
DAYS = 50
HOSTS = 3


def age_by_a_day() -> None:
    """Moves everything that is recorded a day into the past."""
    with transaction():
        for model in ALL:
            if model is OperationStep:  # it has no time: it goes with its operation
                continue
            fields = [field for field in model._meta.sorted_fields if isinstance(field, DateTimeField)]
            aged = [
                (*(str(time - DAY) if time else None for time in times), row_id)
                for row_id, *times in tuples(model.select(model.id, *fields), tuple[datetime.datetime | None, ...])
            ]
            values = ", ".join(f'"{field.column_name}" = ?' for field in fields)
            db.connection().executemany(f'UPDATE "{model._meta.table_name}" SET {values} WHERE "id" = ?', aged)


def work_of_a_day(engine: Engine, replica: str, volume: Volume, authority: pki.CertificateAuthority) -> None:
    for _ in range(2):
        row = test_operations.ended(engine, test_operations.started(engine, volume))
        assert row.state is OperationState.SUCCEEDED
    with transaction():
        for number in range(HOSTS):  # twice in a lifetime
            identity = Identity(Kind.HOST, f"h{number}")
            _, csr = pki.new_key_and_csr(identity)
            certificates.record(authority.sign(csr, identity, 7 * DAY), certificates.FLEET, identity)
            events.record("host.disconnected", events.Outcome.NOTICED, events.SYSTEM, "host", "h", "h")
        Request.create(user="u", request_id=new_id(), method="m", digest="d")
        tokens.create("c", datetime.timedelta(hours=1))
        cluster = Cluster.get(Cluster.name == "c")
        DrsPlan.create(name=new_id(), cluster=cluster, type="manual", mode="balance", state="completed", user="u")
    replicas.beat(new_id(), "")
    # The engine does so every two seconds, in which many of these days pass.
    replicas.beat(replica, "")


def housekeep(engine: Engine) -> None:
    housekeeping.tidy()
    drs_store.expire(now())
    engine.prune(datetime.timedelta(days=RETENTION_DAYS))


def sizes() -> dict[str, int]:
    """Rows of every table."""
    return {model.__name__: model.select().count() for model in ALL}


@pytest.mark.slow
def test_no_table_only_grows(sqlite_database: str, tmp_path: Path) -> None:
    volume = test_operations.new_volume()

    @test_operations.body
    def two_steps(run: Run) -> None:
        run.step("one", lambda: None)
        run.step("two", lambda: None)

    authority = pki.CertificateAuthority.create("test")
    with transaction():
        Cluster.create(name="c", zone=Zone.create(name="z"))
        values.put(settings.events.EVENT_RETENTION.name, Scope.GLOBAL, "", str(RETENTION_DAYS))
        values.put(settings.drs.PLAN_EXPIRE_INTERVAL.name, Scope.GLOBAL, "", str(RETENTION_DAYS))
    engine = test_operations.new_engine(tmp_path)
    engine.start()
    try:
        by_day = []
        for _ in range(DAYS):
            age_by_a_day()
            work_of_a_day(engine, replica_id(tmp_path), volume, authority)
            housekeep(engine)
            by_day.append(sizes())
    finally:
        engine.stop()
    last, before = by_day[-1], by_day[-10]
    assert {name: (before[name], count) for name, count in last.items() if count > before[name]} == {}
    for grown in (Operation, OperationStep, Event, Request, Certificate, JoinToken, DrsPlan, Replica):
        assert 0 < last[grown.__name__] <= 40 * 2 * HOSTS, grown.__name__


def test_more_operations_are_forgotten_than_a_statement_can_name(fresh_database: str) -> None:
    if is_sqlite():  # Debian allows more values than SQLite does unless told otherwise
        db.connection().setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
    count = 33_000 if is_sqlite() else 66_000  # PostgreSQL allows 65,535
    old = Operation.create(
        verb="vm.start", resource_type="vm", resource_id="v", user="u", inputs="{}", state=OperationState.SUCCEEDED,
        end_time=now() - 100 * DAY,
    )  # fmt: skip
    others = ", ".join(f'"{field.column_name}"' for field in Operation._meta.sorted_fields if field.name != "id")
    with transaction():
        db.execute_sql(
            f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
            f'INSERT INTO "operation" ("id", {others}) SELECT "id" || i, {others} FROM "operation", n'
        )
    assert Operation.select().where(Operation.id.startswith(old.id)).count() == count
    assert len(records.forget(Operation.end_time < now() - 90 * DAY)) == count
    assert Operation.select().count() == 0
    assert requests.prune() == 0
