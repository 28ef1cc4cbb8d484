"""Queries that are written once, on both databases."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_control.models import Zone, ZoneLabel, now
from ostler_control.prepared import Prepared
from peewee import JOIN, Context, fn

from tests import databases


@pytest.fixture(params=["sqlite", "postgresql"])
def zones(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    url = f"sqlite:///{tmp_path}/ostler.sqlite"
    if request.param == "postgresql":
        url = databases.new_database(request.getfixturevalue("postgresql"), f"t_{uuid.uuid4().hex}")
    with databases.bound(url):
        for name in ("north", "south", "it's"):
            Zone.create(name=name)
        yield


def by_name() -> Prepared:
    return Prepared(
        lambda value: (
            Zone.select(Zone.name, fn.COALESCE(ZoneLabel.key, "none"))
            .join(ZoneLabel, JOIN.LEFT_OUTER)
            .where(Zone.name.in_([value("name"), "south"]), Zone.create_time <= value("until"))
            .order_by(Zone.name)
        )
    )


def test_it_is_asked_with_other_values_and_written_once(zones: None, monkeypatch: pytest.MonkeyPatch) -> None:
    query = by_name()
    assert query.rows(tuple[str, str], name="north", until=now()) == [("north", "none"), ("south", "none")]
    monkeypatch.setattr(Context, "parse", lambda *_: pytest.fail("it was written again"))
    assert query.rows(tuple[str, str], name="it's", until=now()) == [("it's", "none"), ("south", "none")]
    assert query.first(tuple[str, str], name="' OR 1=1 --", until=now()) == ("south", "none")
    assert query.first(tuple[str, str], name="north", until=now().replace(year=2001)) is None


def test_each_kind_of_database_has_its_text(tmp_path: Path, postgresql: str) -> None:
    query = by_name()
    for url in (
        f"sqlite:///{tmp_path}/ostler.sqlite",
        databases.new_database(postgresql, f"t_{uuid.uuid4().hex}"),
    ):
        with databases.bound(url):
            Zone.create(name="north")
            assert query.rows(tuple[str, str], name="north", until=now()) == [("north", "none")]


def test_a_change_is_made_for_these_values_alone(zones: None) -> None:
    rename = Prepared(lambda value: Zone.update(name=value("new")).where(Zone.name == value("old")))
    insert = Prepared(lambda value: Zone.insert({column: value(column.name) for column in Zone._meta.sorted_fields}))
    rename.run(new="east", old="north")
    row = Zone(name="west")
    insert.run(**row.__data__)
    assert sorted(zone.name for zone in Zone.select()) == ["east", "it's", "south", "west"]
    assert Zone.get_by_id(row.id).__data__ == row.__data__
