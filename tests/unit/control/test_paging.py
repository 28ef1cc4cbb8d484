"""Pages of lists."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from ostler.control.v1 import zone_pb2
from ostler_control.api.paging import page
from ostler_control.database import is_sqlite
from ostler_control.models import Zone, db

BEGIN = datetime.datetime(2026, 1, 1)
ZONES = 2_000


@pytest.fixture
def zones(fresh_database: str) -> list[str]:
    """The names in order. Several of them were made at the same moment."""
    rows = [
        Zone(id=f"{number:04}", name=f"z{number}", create_time=BEGIN + datetime.timedelta(seconds=number // 3))
        for number in range(ZONES)
    ]
    Zone.bulk_create(rows, batch_size=100)
    if not is_sqlite():
        db.execute_sql("ANALYZE zone")
    return [row.name for row in rows]


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_pages_have_each_row_once_in_order(zones: list[str], newest_first: bool) -> None:
    request, found = zone_pb2.ListZonesRequest(page_size=100), list[str]()
    while True:
        part = page(Zone.select(), Zone, request, newest_first=newest_first)
        found += [row.name for row in part.rows]
        request.page_token = part.next_page_token
        if not part.next_page_token:
            break
    assert found == (zones[::-1] if newest_first else zones)


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_page_reads_no_rows_of_the_pages_before_it(
    zones: list[str], newest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the last page of a long list takes as long as all of them."""
    execute, seen = db.obj.execute_sql, list[tuple[Any, ...]]()  # Any: peewee's parameters

    def noted(*statement: Any) -> Any:
        seen.append(statement)
        return execute(*statement)

    request = zone_pb2.ListZonesRequest(page_size=1000)
    request.page_token = page(Zone.select(), Zone, request, newest_first=newest_first).next_page_token
    monkeypatch.setattr(db.obj, "execute_sql", noted)
    page(Zone.select(), Zone, request, newest_first=newest_first)
    ((text, values),) = seen
    monkeypatch.undo()
    explain = "EXPLAIN QUERY PLAN" if is_sqlite() else "EXPLAIN"
    plan = " ".join(str(row) for row in db.execute_sql(f"{explain} {text}", values).fetchall())
    sign = "<" if newest_first else ">"
    assert (f"(create_time{sign}?)" if is_sqlite() else f"Index Cond: (create_time {sign}= ") in plan
