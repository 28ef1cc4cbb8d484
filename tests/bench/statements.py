"""What a statement costs: CPU of this process for each, in one thread, on SQLite in memory-backed files.

python -m tests.bench.statements [--calls 6000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ostler_control.database import transaction
from ostler_control.models import Cluster, Event, Host, HostState, Vm, Zone, first_tuple, new_id, tuples

from tests import databases
from tests.fleets import make_fleet

# The best of so many: others use the machine too.
_ROUNDS = 12


def measure(work: Callable[[], object], calls: int) -> float:
    """Microseconds of CPU for each call."""
    found: list[float] = []
    for _ in range(_ROUNDS):
        begun = time.process_time()
        for _ in range(calls // _ROUNDS):
            work()
        found.append((time.process_time() - begun) / (calls // _ROUNDS))
    return min(found) * 1e6


def _work() -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], object]]]:
    """What reads, and what writes."""
    fleet = make_fleet(4)
    vm, host, cluster = fleet.vm("a").id, fleet.hosts[0].id, fleet.cluster.id
    some = (Host.id, Cluster.name)
    in_cluster = (Cluster.id == cluster) & (Host.state == HostState.UP)
    event = {"type": "vm.create", "outcome": "started", "actor": "root", "resource_type": "vm", "resource_id": vm}
    one = Vm.get_by_id(vm)

    def follow() -> object:
        one.__rel__.clear()
        return one.account

    return {
        "a VM by its id": lambda: Vm.get_by_id(vm),
        "a foreign key that is followed": follow,
        "two columns of a row": lambda: first_tuple(Host.select(Host.name, Host.state).where(Host.id == host), tuple),
        "columns of two tables": lambda: tuples(Host.select(*some).join(Cluster).where(in_cluster), tuple),
        "whether there is a row": lambda: Vm.select().where(Vm.name == "none", Vm.account == "none").exists(),
        "a count": lambda: Vm.select().where(Vm.account == "none").count(),
    }, {
        "a change of a row": lambda: Vm.update(cpus=2).where(Vm.id == vm).execute(),
        "a change that gives the row": lambda: list(
            Host.update(cpus=2).where(Host.id == host).returning(Host).execute()
        ),
        "a new event": lambda: Event.create(**event),
        "a new row unless it is there": lambda: Zone.insert(name=new_id()).on_conflict_ignore().execute(),
    }


def _print(kinds: dict[str, Callable[[], object]], calls: int) -> None:
    for name, work in kinds.items():
        print(f"{name:32} {measure(work, calls):6.1f} us", flush=True)


def main() -> None:
    """Prints a line for each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=6000)
    calls = parser.parse_args().calls
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory,
        databases.bound(f"sqlite:///{directory}/ostler.sqlite"),
    ):
        reads, writes = _work()
        _print(reads, calls)
        with transaction(lasting=False):
            _print(writes, calls)


if __name__ == "__main__":
    main()
