"""One run: clients and faults for a time, then quiet, then the verdict."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostler_control import database
from ostler_control.check.inspect import inspect
from ostler_control.models import HostFence, Operation, Snapshot, Vm, VmRestart, VmState, Volume
from ostler_control.states import OperationState

from tests.chaos import journal, log
from tests.chaos.clients import Clients
from tests.chaos.history import Call, Outcome, told, violations
from tests.chaos.log import Auditor
from tests.chaos.moves import Moves
from tests.chaos.nemesis import Nemesis
from tests.chaos.site import Place, place
from tests.sites import Site, new_agents

CLIENTS = 12
LAST_CALLS_S, REST_S = 200.0, 120.0
LOOK_S = 0.02


@dataclass(frozen=True)
class Verdict:
    """seed: repeats the run's calls and faults; the order in which threads do them is another each time; fenced: how
    many times the control plane had a host switched off; left_out: which faults this machine cannot have, and why."""

    seed: int
    seconds: float
    calls: list[Call]
    injected: Counter[str]
    fenced: int
    violations: list[str]
    left_out: list[str]

    def lines(self) -> list[str]:
        """For people."""
        outcomes = Counter(call.outcome.value for call in self.calls)
        refused = Counter(call.reason for call in self.calls if call.outcome is Outcome.REFUSED)
        return [
            f"seed {self.seed}: {len(self.calls)} operations in {self.seconds:.0f} s: "
            + ", ".join(f"{number} {name}" for name, number in sorted(outcomes.items())),
            "  refused: " + ", ".join(f"{number} x {reason}" for reason, number in refused.most_common()),
            f"  faults: {sum(self.injected.values())} ("
            + ", ".join(f"{number} x {name}" for name, number in sorted(self.injected.items()))
            + f"); hosts fenced: {self.fenced}",
            *(f"  left out: {one}" for one in self.left_out),
            f"  violations: {len(self.violations)}",
            *(f"  - {one}" for one in self.violations),
        ]


class Watch:
    """Looks all the time whether a VM runs twice."""

    def __init__(self, at: Place) -> None:
        self._fleet = at.site.fleet
        self._ended = threading.Event()
        self.doubles: set[str] = set()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(10)

    def _work(self) -> None:
        while not self._ended.wait(LOOK_S):
            with self._fleet.lock:
                running = Counter(
                    vm_id for host in self._fleet.hosts.values() for vm_id, vm in list(host.vms.items()) if vm.running
                )
            self.doubles |= {vm_id for vm_id, hosts in running.items() if hosts > 1}


def run(directory: Path, seed: int, duration_s: float, replicas: int) -> Verdict:
    """Raises AssertionError when the run itself does not come to its end."""
    begin = time.monotonic()
    with place(directory, seed, replicas, CLIENTS) as at:
        watch, auditor, nemesis = Watch(at), Auditor(), Nemesis(at, seed)
        clients = Clients(at.profiles, seed)
        clients.start()
        nemesis.work(duration_s)
        at.powers.stop()
        at.wait_for_replicas()
        clients.stop(LAST_CALLS_S)
        assert not clients.faults, clients.faults
        found = [f"VM {vm_id} ran twice" for vm_id in watch.doubles]
        found += [
            f"VM {vm_id} would have run twice, but for QEMU's lock of its image"
            for vm_id in sorted(at.site.fleet.refused_by_locks - nemesis.moves.vms)
        ]
        nemesis.moves.vms |= at.powers.ended  # an admin looks after those of hosts that came back too soon to be fenced
        nemesis.moves.stopped |= at.powers.ended
        found += [f"{text} ({told(_about(text, clients.calls))})" for text in _at_rest(at, nemesis.moves)]
        watch.stop()
        auditor.stop()
        with database.session():
            found += violations(clients.calls, _states())
            found += auditor.violations()
            found += journal.violations(clients.calls, *log.read())
            found += [
                f"{row.verb} of {row.resource_name} ended with a bug: {row.error}"
                for row in Operation.select()
                if '"INTERNAL"' in row.error
            ]
    injected, fenced = nemesis.injected, at.powers.fenced
    return Verdict(seed, time.monotonic() - begin, clients.calls, injected, fenced, found, at.left_out)


def _at_rest(at: Place, moves: Moves) -> list[str]:
    """What is not whole once all operations have ended. The engine's sweeps may need a while."""
    end = time.monotonic() + REST_S
    while True:
        with database.session():
            busy = Operation.select().where(Operation.state.in_((OperationState.PENDING, OperationState.RUNNING)))
            left = [f"{row.verb} of {row.resource_name} does not end" for row in busy]
            moving = Vm.select().where(Vm.state == VmState.MIGRATING)
            left += [f"nobody finds out where {row.name} is" for row in moving]
            left += [f"{row.vm.name} waits for its restart: {row.reason}" for row in VmRestart.select()]
            left += [f"host {row.host.name} is not given back: {row.state}" for row in HostFence.select()]
            if not left:
                for vm_id in moves.vms:
                    moves.put_right(vm_id)
                try:
                    at.site.check_whole(lost_hosts=True)
                    left = _checked(at.site)
                except AssertionError as error:
                    left = [f"at rest: {error}"]
                if not left:
                    return []
        if time.monotonic() > end:
            for replica in at.replicas:
                replica.signal(signal.SIGUSR1)  # it writes what its threads do
            time.sleep(2.0)
            return left
        time.sleep(0.5)


def _checked(site: Site) -> list[str]:
    """What `ostler-control check` says, but of VMs that an operation which lost its host has left: the model judges
    those."""
    left = {row.name for row in Vm.select() if row.state is VmState.FAILED or _is_off(row)}
    with contextlib.closing(new_agents(site.state_dir)) as agents:
        report = inspect(agents, site.keys)
    found = [one for one in report.findings if not left & {*one.object.split()}]
    return [f"check: {text}" for text in (*(f"{one.object}: {one.message}" for one in found), *report.unchecked)]


def _about(text: str, calls: Sequence[Call]) -> list[Call]:
    """The calls on what a text names."""
    return [call for call in calls if call.object.partition("/")[2] in text.split()]


def _states() -> dict[str, str]:
    """Object -> state, of all that is there. A VM that is recorded as running and is off counts as stopped."""
    vms = {f"vm/{row.name}": VmState.STOPPED if _is_off(row) else row.state for row in Vm.select()}
    volumes = {f"volume/{row.name}": str(row.state) for row in Volume.select().where(~Volume.root)}
    return {**vms, **volumes, **{f"snapshot/{row.name}": str(row.state) for row in Snapshot.select()}}


def _is_off(vm: Any) -> bool:
    """Whether it is recorded as running, and its host says that it is not."""
    return vm.state is VmState.RUNNING and not vm.power_state.is_executing
