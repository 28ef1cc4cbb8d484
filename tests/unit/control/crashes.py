"""Killing control processes at every point of their operations: what the crash tests share."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from ostler_control.database import transaction
from ostler_control.models import Operation
from ostler_control.states import UNFINISHED_OPERATIONS

from tests import databases
from tests.fakes.working_agent import wait_until
from tests.sites import MANY, Site, new_engine, new_site

ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def control(
    site: Site, plan: Mapping[str, int], name: str = "control", limit: int = MANY
) -> Iterator[subprocess.Popen[bytes]]:
    """A control process on the site, killed at the end. plan, limit: see `tests.crash_runner`."""
    state_dir = site.state_dir / name
    state_dir.mkdir(exist_ok=True)
    if not (state_dir / "kek").exists():
        (state_dir / "kek").write_bytes((site.state_dir / "kek").read_bytes())
    path = state_dir / "plan"
    path.write_text(json.dumps(plan))
    command = [sys.executable, "-m", "tests.crash_runner", site.url, str(state_dir), str(path), str(limit)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def are_over(operations: Collection[Operation]) -> bool:
    ids = [operation.id for operation in operations]
    unfinished = Operation.select().where(Operation.id.in_(ids) & Operation.state.in_(UNFINISHED_OPERATIONS))
    return not unfinished.exists()


def reached(site: Site, operation: Operation, name: str = "control") -> bool:
    """Whether the operation has stopped at its point of the plan."""
    return (site.state_dir / name / "reached" / operation.id).exists()


def go_on(site: Site, name: str) -> None:
    """Lets the operations go on that stand still at their points."""
    (site.state_dir / name / "go-on").touch()


def record(request: Callable[[], Operation]) -> Operation:
    with transaction():
        return request()


def run_without_crash(site: Site, operations: Collection[Operation]) -> None:
    """In this process; all must succeed."""
    engine = new_engine(site.state_dir)
    engine.start()
    for operation in operations:
        row = engine.wait(operation.id, 60)
        assert row.state == "succeeded", row.error
    engine.stop()
    engine.agents.close()


def names(kind: str, points: int) -> list[str]:
    """One object per point at which the operations of a kind are killed."""
    return [f"{kind}-{number}" for number in range(1, points + 1)]


def kill_at_every_point(
    site: Site, operations: Mapping[str, list[Operation]], never_over: Collection[str] = ()
) -> list[Operation]:
    """Kills the n-th operation of each kind at its n-th point, all in one process; returns all of them.

    The last of each kind has no such point and ends, so that the number of points is known to be right; those of the
    kinds `never_over` have one more.
    """
    plan = {operation.id: at for group in operations.values() for at, operation in enumerate(group, start=1)}
    every = [operation for group in operations.values() for operation in group]
    with control(site, plan):
        wait_until(lambda: all(reached(site, operation) or are_over([operation]) for operation in every), 120)
        # The last point comes after the end: an operation that is over may be about to reach it.
        to_stop = [operation for group in operations.values() for operation in group[:-1]]
        with contextlib.suppress(AssertionError):
            wait_until(lambda: all(reached(site, operation) for operation in to_stop), 20)
    for kind, group in operations.items():
        stopped = [reached(site, operation) for operation in group]
        assert stopped == [True] * (len(group) - 1) + [kind in never_over], f"{kind} has another number of points"
    return every


Aftermath = tuple[Site, dict[str, list[Operation]]]


@contextlib.contextmanager
def aftermath_of(
    state_dir: Path,
    points: Mapping[str, int],
    prepare: Callable[[Site], None],
    start: Callable[[Site, str, str], Operation],
) -> Iterator[Aftermath]:
    """A new site, and its operations by kind, after all were killed at every point and another process carried them
    out. points: of each kind; start: records an operation, given its kind and the name of its object."""
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url:
        site = new_site(url, state_dir)
        prepare(site)
        operations = {kind: [start(site, kind, name) for name in names(kind, count)] for kind, count in points.items()}
        every = kill_at_every_point(site, operations)
        with control(site, {}):
            wait_until(lambda: are_over(every), 180)
        yield site, operations
        site.fleet.stop()


def states(operations: Collection[Operation]) -> set[str]:
    """How they have ended."""
    return {Operation.get_by_id(operation.id).state for operation in operations}
