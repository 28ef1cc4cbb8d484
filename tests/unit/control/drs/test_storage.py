"""Volumes that move to fill pools evenly."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ostler_control.drs import Settings
from ostler_control.drs.storage import Pool, StoragePlan, Volume, storage_plan

GIB = 1 << 30
PERFECT = Settings(imbalance=1.0, cost_weight=0.0)
HOSTS = frozenset({"h1", "h2"})


def pool(name: str, used: int, size: int = 100, **more: object) -> Pool:
    values = {"type": "nfs", "encryption": True, "hosts": HOSTS, **more}
    return Pool(name, name, capacity_bytes=size * GIB, available_bytes=(size - used) * GIB, **values)  # type: ignore[arg-type]


def volume(name: str, where: str, gib: int = 10, **more: object) -> Volume:
    return Volume(name, name, where, gib * GIB, **more)  # type: ignore[arg-type]


def moves(found: StoragePlan) -> str:
    return ", ".join(f"{move.vm_name} {move.source_name}>{move.destination_name}" for move in found.moves)


FULL = [volume(name, "p1") for name in "abcd"]


def test_volumes_leave_the_full_pool() -> None:
    found = storage_plan([pool("p1", 40), pool("p2", 0)], FULL, PERFECT)
    assert moves(found) == "a p1>p2, b p1>p2"
    assert [(one.pool_name, one.before, one.after) for one in found.pools] == [("p1", 0.4, 0.2), ("p2", 0.0, 0.2)]
    assert found.moves[0].reason.startswith('used space: "p1" has')
    assert found.moves[0].cost_bytes == 10 * GIB


def test_even_pools_are_left_alone() -> None:
    found = storage_plan([pool("p1", 40), pool("p2", 38)], FULL, Settings(imbalance=0.8))
    assert (moves(found), "drs.storage.imbalance 0.8" in found.explanation) == ("", True)


def test_thin_volumes_count_by_what_their_pool_uses() -> None:
    thin = [volume(name, "p1", 100) for name in "abcd"]
    found = storage_plan([pool("p1", 40), pool("p2", 0)], thin, PERFECT)
    assert moves(found) == "a p1>p2, b p1>p2"
    assert found.moves[0].cost_bytes == 10 * GIB


REFUSED = [
    ("not to pools of another type", pool("p2", 0, type="local"), {}),
    ("not to pools that fewer hosts reach", pool("p2", 0, hosts=frozenset({"h1"})), {}),
    ("not to pools that cannot be used now", pool("p2", 0, hosts=frozenset()), {}),
    ("not to pools without encryption", pool("p2", 0, encryption=False), {"encrypted": True}),
    ("not without the room that a thick volume needs", pool("p2", 5, 12), {"required_bytes": 10 * GIB}),
    ("not when something works on it", pool("p2", 0), {"movable": False}),
    ("not when its owner does not want it", pool("p2", 0), {"skip": True}),
    ("not soon after a move", pool("p2", 0), {"moved_ago_s": 60.0}),
]


@pytest.mark.parametrize(("other", "changes"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_volumes_that_stay(other: Pool, changes: dict[str, object]) -> None:
    stay = [dataclasses.replace(one, **changes) for one in FULL]  # type: ignore[arg-type]
    assert moves(storage_plan([pool("p1", 40), other], stay, PERFECT)) == ""


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([0.4, 0.8, 1.0]))
def test_every_move_keeps_every_rule(seed: int, imbalance: float) -> None:
    chance = random.Random(seed)
    hosts = [frozenset({"h1"}), HOSTS, frozenset[str]()]
    pools = [
        pool(
            f"p{number}",
            chance.randrange(100),
            type=chance.choice(["nfs", "nfs", "local"]),
            encryption=chance.random() < 0.7,
            hosts=chance.choice(hosts),
        )
        for number in range(chance.randrange(1, 6))
    ]
    volumes = []
    for number in range(chance.randrange(30)):
        gib = chance.choice([5, 10, 40])
        volumes.append(
            volume(
                f"v{number}",
                chance.choice(pools).id,
                gib,
                required_bytes=chance.choice([0, gib * GIB]),
                encrypted=chance.random() < 0.3,
                movable=chance.random() < 0.9,
                skip=chance.random() < 0.1,
                moved_ago_s=chance.choice([None, None, 60.0]),
            )
        )
    found = storage_plan(pools, volumes, Settings(imbalance=imbalance))
    known, where = {one.id: one for one in pools}, {one.id: one for one in volumes}
    free = {one.id: one.available_bytes for one in pools}
    for move in found.moves:
        source, target, moved = known[move.source_id], known[move.destination_id], where[move.vm_id]
        assert moved.pool_id == move.source_id
        assert moved.movable
        assert not moved.skip
        assert moved.moved_ago_s is None
        assert target.type == source.type
        assert target.hosts >= source.hosts
        assert target.hosts
        assert target.encryption or not moved.encrypted
        assert free[target.id] >= max(moved.required_bytes, move.cost_bytes)
        free[target.id] -= move.cost_bytes
        free[source.id] += move.cost_bytes
        assert free[target.id] >= target.capacity_bytes // 10, "a tenth stays free"
    assert len({move.vm_id for move in found.moves}) == len(found.moves)
    assert found.imbalance_after <= found.imbalance_before
