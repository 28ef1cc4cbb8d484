"""Small clusters on which plans are compared with greedy, hbal and the optimum: two generators, all hosts alike."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ostler_control.drs import Snapshot

from tests.bench.clusters import Shape, make
from tests.bench.fleets import Fleet, make_fleet


@dataclass(frozen=True)
class Case:
    """A cluster and how many moves a plan may have."""

    generator: str
    snapshot: Snapshot
    most: int


def cases(number: int) -> list[Case]:
    """So many clusters of each generator, up to 8 hosts and about 40 VMs, with 5 and with 50 moves."""
    return [
        Case(generator, cluster, most)
        for generator, one in (("clusters", _sold), ("fleets", _fleet))
        for cluster in map(one, range(number))
        for most in (5, 50)
    ]


def _sold(seed: int) -> Snapshot:
    chance = random.Random(seed)
    return make(Shape(chance.randrange(3, 9), chance.randrange(15, 41), 2, 3, models=1, encrypted=0.0, seed=seed))


def _fleet(seed: int) -> Snapshot:
    """A third of them 6 hosts that are 85 % full."""
    chance = random.Random(seed)
    tight = seed % 3 == 0
    return make_fleet(
        Fleet(
            6 if tight else chance.randrange(3, 8),
            full=0.85 if tight else chance.choice((0.4, 0.6, 0.75)),
            skew=0.3 if tight else chance.choice((0.4, 0.8)),
            sizes=4 if tight else chance.choice((2, 3, 4)),
            dirtying=seed % 2 == 0,
            small=True,
            seed=seed,
        )
    )
