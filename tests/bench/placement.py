"""How fast placement is: `python -m tests.bench.placement [postgresql]`.

1,000 hosts and 10,000 VMs in the database; encrypted VMs with a root disk in a pool that every host reaches are placed
and their shares claimed, one after another in one process.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ostler_control import database
from ostler_control.models import Vm
from ostler_control.scheduling import capacity, placement_query

from tests import databases, fleets

HOSTS, VMS, PLACEMENTS = 1_000, 10_000, 300
LEAST_PER_S, FIRST_WITHIN_S = 100, 0.050


@contextlib.contextmanager
def _database(kind: str) -> Iterator[None]:
    if kind == "postgresql":
        with databases.postgresql_server() as server, databases.bound(server.url + "postgres"):
            yield
        return
    with tempfile.TemporaryDirectory() as directory, databases.bound(f"sqlite:///{directory}/bench.sqlite"):
        yield


def _place(vm: Vm, pool_id: str) -> None:
    demand = placement_query.demand_of(vm, volume_encryption=True, pool_choices=((pool_id,),))
    placement_query.find_and_claim(vm, demand)


@dataclass(frozen=True)
class Figures:
    """What was measured on one kind of database."""

    kind: str
    per_s: float
    first_s: float
    median_s: float

    @property
    def ok(self) -> bool:
        return self.per_s >= LEAST_PER_S and self.first_s <= FIRST_WITHIN_S


def measure(kind: str) -> Figures:
    """kind: "sqlite" or "postgresql"."""
    with _database(kind):
        fleet = fleets.make_fleet(HOSTS)
        fleets.fill(fleet, VMS)
        vms = [fleet.vm(f"new{number}") for number in range(PLACEMENTS + 1)]
        pool_id = fleet.pool.id
        database.disconnect()  # the first answer opens its connection as well
        begin = time.monotonic()
        with database.session():
            _place(vms[0], pool_id)
            first_s = time.monotonic() - begin
            times = []
            for vm in vms[1:]:
                begin = time.monotonic()
                _place(vm, pool_id)
                times.append(time.monotonic() - begin)
            assert capacity.audit() == []
    return Figures(kind, len(times) / sum(times), first_s, statistics.median(times))


def main(kind: str = "sqlite") -> bool:
    """Prints the figures; returns whether they are within the limits."""
    found = measure(kind)
    print(
        f"placement on {kind}, {HOSTS:,} hosts, {VMS:,} VMs: {found.per_s:.0f} placements/s (at least {LEAST_PER_S}), "
        f"first answer {found.first_s * 1000:.0f} ms (at most {FIRST_WITHIN_S * 1000:.0f}), "
        f"median {found.median_s * 1000:.1f} ms"
    )
    return found.ok


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
