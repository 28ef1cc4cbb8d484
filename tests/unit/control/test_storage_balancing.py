"""Storage plans out of the database, and their moves as an operation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, OstlerError
from ostler_control import drs_plans, settings, volumes
from ostler_control.database import transaction
from ostler_control.models import Operation, Pool, PoolHost, Volume, Zone, now
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.working_agent import Fault
from tests.sites import Site, outcome, site_at_work

GIB = 1 << 30
OK = ("succeeded", "")
NO = FailedPreconditionError("the disk would not go", "NO_WAY")


@pytest.fixture
def working(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Site, Engine]]:
    """On SQLite, or on PostgreSQL where the test asks for it."""
    url = f"sqlite:///{tmp_path}/ostler.sqlite"
    if getattr(request, "param", "") == "postgresql":
        server: str = request.getfixturevalue("postgresql")
        url = databases.new_database(server, "storage_balancing")
    with databases.bound(url) as url, site_at_work(url, tmp_path) as working:
        yield working


@pytest.fixture
def engine(working: tuple[Site, Engine]) -> Engine:
    return working[1]


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Site:
    """Two shared pools of 100 GiB, of which the first has four volumes of 10 GiB."""
    site, engine = working
    zone = Zone.get()
    site.pools["other"] = Pool.create(
        name="other", type="shared-mount-point", scope="zone", scope_id=zone.id, path="/other", shared=True,
        encryption=True, capacity_bytes=100 * GIB, available_bytes=100 * GIB, measure_time=now(),
    )  # fmt: skip
    for fake in site.hosts.values():
        PoolHost.create(pool=site.pools["other"], host=fake.host_id, reachable=True)
        fake.pools.add(site.pools["other"].id)
    Pool.update(capacity_bytes=100 * GIB, available_bytes=60 * GIB).where(Pool.name == "shared").execute()
    for number in range(4):
        wanted = volumes.NewVolume(
            f"v{number}", site.account, site.disks["encrypted"], size_bytes=10 * GIB, pool=site.pools["shared"]
        )
        make = partial(volumes.create, wanted, "root", site.keys)
        assert outcome(engine, site.record(make)) == OK
    settings.change("drs.cost.weight", "0", "root")
    return site


def pool_of(name: str) -> str:
    row: Any = Volume.get(Volume.name == name)
    return str(row.pool.name)


def chosen() -> list[tuple[Any, Any]]:
    """The rows of the moves that are planned."""
    found = drs_plans.plan_storage(Zone.get())
    return [(Volume.get_by_id(move.vm_id), Pool.get_by_id(move.destination_id)) for move in found.moves]


def balanced(site: Site, moves: list[tuple[Any, Any]]) -> Any:
    return site.record(lambda: drs_plans.execute_storage(Zone.get(), moves, "ada"))


def test_a_plan_moves_nothing_and_its_execution_moves_volumes(site: Site, engine: Engine) -> None:
    moves = chosen()
    assert [pool.name for _, pool in moves] == ["other", "other"]
    assert {pool_of(f"v{number}") for number in range(4)} == {"shared"}
    operation = balanced(site, moves)
    assert outcome(engine, operation) == OK
    assert {volume.name: pool_of(volume.name) for volume, _ in moves} == {moved.name: "other" for moved, _ in moves}
    assert sorted(pool_of(f"v{number}") for number in range(4)) == ["other", "other", "shared", "shared"]
    made = Operation.select().where(Operation.verb == "volume.migrate")
    assert [(row.state, row.user) for row in made] == [("succeeded", "ada")] * 2
    site.check_whole()


@pytest.mark.parametrize("working", ["sqlite", "postgresql"], indirect=True)
def test_volumes_that_moved_stay_for_a_while(site: Site, engine: Engine) -> None:
    moves = chosen()
    assert outcome(engine, balanced(site, moves)) == OK
    Pool.update(available_bytes=60 * GIB).where(Pool.name == "other").execute()
    Pool.update(available_bytes=100 * GIB).where(Pool.name == "shared").execute()
    assert {row.name for row, _ in chosen()}.isdisjoint({row.name for row, _ in moves})


def test_a_move_that_fails_is_told_and_the_others_are_made(site: Site, engine: Engine) -> None:
    moves = chosen()
    for fake in site.hosts.values():
        fake.fail("CopyVolume", Fault(NO, times=1))
    operation = balanced(site, moves)
    state, reason = outcome(engine, operation)
    row: Any = Operation.get_by_id(operation.id)
    assert (state, reason) == ("failed", "STORAGE_PLAN_PARTIAL"), row.error
    site.check_whole()


def test_a_volume_that_is_gone_is_told(site: Site, engine: Engine) -> None:
    moves = chosen()
    assert outcome(engine, site.record(partial(volumes.delete, moves[0][0], "root"))) == OK
    operation = balanced(site, moves)
    assert outcome(engine, operation) == ("failed", "STORAGE_PLAN_PARTIAL")
    told = f"1 of 2 volumes were moved; first {moves[0][0].name}: it is gone"
    assert told in Operation.get_by_id(operation.id).error
    assert pool_of(moves[1][0].name) == "other"


def test_bad_moves_change_nothing(site: Site, engine: Engine) -> None:
    volume, pool = chosen()[0]
    zone = Zone.get()
    far = Zone.create(name="far")

    def reason(zone: Any, moves: list[tuple[Any, Any]]) -> str:
        with pytest.raises(OstlerError) as caught, transaction():
            drs_plans.execute_storage(zone, moves, "ada")
        return caught.value.reason

    assert reason(zone, [(volume, pool), (volume, pool)]) == "DUPLICATE_VOLUME"
    assert reason(far, [(volume, pool)]) == "OTHER_ZONE"
    with pytest.raises(InvalidArgumentError, match="1 to 1000 moves"), transaction():
        drs_plans.execute_storage(zone, [], "ada")
    assert not Operation.select().where(Operation.verb == "zone.balance-storage").exists()
