"""How often it is counted what an account has."""

from __future__ import annotations

from typing import Any

import pytest
from ostler_common.errors import ResourceExhaustedError
from ostler_control.catalog import row_limits
from ostler_control.catalog.row_limits import check_rows
from ostler_control.models import Account, Vm, Volume, db

from tests.fleets import Fleet, fill, make_fleet


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements so far, with nothing known of any account."""
    seen: list[str] = []
    execute = db.obj.execute_sql

    # Any: peewee's parameters and cursor.
    def noted(text: str, *values: Any) -> Any:
        seen.append(text)
        return execute(text, *values)

    monkeypatch.setattr(row_limits, "_far_until_s", {})
    monkeypatch.setattr(db.obj, "execute_sql", noted)
    return seen


@pytest.fixture
def fleet(sqlite_database: str) -> Fleet:
    fleet = make_fleet(1)
    fill(fleet, 3)
    return fleet


def test_an_account_far_from_its_limit_is_counted_now_and_then(
    fleet: Fleet, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        check_rows(Vm, fleet.account.id)
    assert len(counted) == 1
    check_rows(Volume, fleet.account.id)
    assert len(counted) == 2
    check_rows(Vm, Account.create(name="other").id)
    del counted[:]
    monkeypatch.setattr(row_limits, "_INTERVAL_S", 0.0)
    row_limits._far_until_s.clear()
    for _ in range(3):
        check_rows(Vm, fleet.account.id)
    assert len(counted) == 3


def test_one_near_its_limit_is_counted_each_time(
    fleet: Fleet, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_limits, "MAX_ROWS_PER_ACCOUNT", {Vm: 3 + row_limits._FAR - 1})
    for _ in range(3):
        check_rows(Vm, fleet.account.id)
    assert len(counted) == 3
    monkeypatch.setattr(row_limits, "MAX_ROWS_PER_ACCOUNT", {Vm: 3})
    with pytest.raises(ResourceExhaustedError):
        check_rows(Vm, fleet.account.id)


def test_what_is_remembered_is_bounded(fleet: Fleet, counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_limits, "_MAX_ACCOUNTS", 2)
    for number in range(10):
        check_rows(Vm, f"account-{number}")
    assert len(row_limits._far_until_s) <= 2
