"""What breaks: one fault at a time, each of which ends by itself."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from tests.chaos.moves import Moves
from tests.chaos.site import Place

QUIET_S = (0.5, 2.0)  # between faults
# TCP sends a lost packet again after 0.2 s at the soonest (RFC 6298, with Linux's minimum).
LOST, RETRANSMISSION_S = 0.2, 0.25
# An agent that is to die at work passes fewer points than this, and has so long to come to one.
POINTS, AT_WORK_S = 5, 8.0


@dataclass
class Nemesis:
    """injected: faults by kind."""

    place: Place
    seed: int
    injected: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._dice = random.Random(f"{self.seed}/nemesis")
        self.moves = Moves(self.place.site)

    def work(self, duration_s: float) -> None:
        """One fault after the other. Call it in the main thread: PostgreSQL dies with the thread that starts it."""
        # How often each comes, relative to the others: after a cut of the control plane all clients wait for a while.
        kinds: dict[str, tuple[int, Callable[[], None]]] = {
            "kill": (4, self._kill),
            "freeze": (3, self._freeze),
            "cut a host": (4, self._cut_host),
            "kill an agent": (2, self._kill_agent),
            "kill an agent in the middle of a job": (4, self._kill_agent_at_work),
            "cut the control plane": (1, self._cut_control),
            "set a clock wrong": (2, self._set_clock),
            "lose packets": (2, self._lose_packets),
            "move a VM behind Ostler's back": (3, self._move),
        }
        if self.place.server is not None:
            kinds["restart PostgreSQL"] = (2, self._restart_database)
            kinds["use up its connections"] = (2, self._starve_database)
            if self.place.server.disks is not None:
                kinds["fill the disk of its tables"] = (2, self._fill_tables)
                kinds["fill the disk of its log of writes"] = (2, self._fill_wal)
        if self.place.disk is not None:
            kinds["fill the disk of the control plane"] = (2, self._fill_disk)
        names = sorted(kinds)
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            self._wait(*QUIET_S)
            kind = self._dice.choices(names, [kinds[name][0] for name in names])[0]
            kinds[kind][1]()
            self.injected[kind] += 1

    def _wait(self, least_s: float, most_s: float) -> None:
        time.sleep(self._dice.uniform(least_s, most_s))

    def _kill(self) -> None:
        replica = self._dice.choice(self.place.replicas)
        replica.kill()
        self._wait(0.0, 2.0)
        replica.start()
        self.place.wait_for_replicas()

    def _freeze(self) -> None:
        replica = self._dice.choice(self.place.replicas)
        replica.signal(signal.SIGSTOP)
        self._wait(0.5, 12.0)
        replica.signal(signal.SIGCONT)

    def _cut_host(self) -> None:
        relay = self.place.hosts[self._dice.choice(("h1", "h2", "h3"))]
        relay.cut()
        self._wait(0.5, 15.0)
        relay.heal()

    def _kill_agent(self) -> None:
        host = self.place.site.hosts[self._dice.choice(("h1", "h2", "h3"))]
        host.kill()
        self._wait(0.0, 3.0)
        host.revive()

    def _kill_agent_at_work(self) -> None:
        """In the middle of what a job does, at the first that comes to it."""
        hosts = [self.place.site.hosts[name] for name in ("h1", "h2")]
        for host in hosts:
            host.life.die_at(self._dice.randrange(POINTS))
        end = time.monotonic() + AT_WORK_S
        while time.monotonic() < end and not any(host.life.died.is_set() for host in hosts):
            time.sleep(0.02)
        for host in hosts:
            host.life.die_at(None)
        dead = [host for host in hosts if host.life.died.is_set()] or hosts[:1]  # nothing was done meanwhile
        for host in dead:
            host.kill()
        self._wait(0.0, 3.0)
        for host in dead:
            host.revive()

    def _cut_control(self) -> None:
        relay = self._dice.choice(self.place.replicas).relay
        relay.cut()
        self._wait(0.5, 12.0)
        relay.heal()

    def _lose_packets(self) -> None:
        """A fifth of what is sent on all connections comes a retransmission later."""
        relays = [*self.place.hosts.values(), *(replica.relay for replica in self.place.replicas)]
        for relay in relays:
            relay.delay(LOST, RETRANSMISSION_S)
        self._wait(1.0, 6.0)
        for relay in relays:
            relay.heal()

    def _fill_disk(self) -> None:
        assert self.place.disk is not None
        self.place.disk.fill()
        self._wait(0.5, 8.0)
        self.place.disk.free()

    def _fill_tables(self) -> None:
        server = self.place.server
        assert server is not None
        assert server.disks is not None
        server.disks.tables.fill()
        self._wait(0.5, 8.0)
        server.free()

    def _fill_wal(self) -> None:
        server = self.place.server
        assert server is not None
        server.fill_wal()
        self._wait(0.0, 5.0)
        server.free()

    def _set_clock(self) -> None:
        replica = self._dice.choice(self.place.replicas)
        replica.set_clock(self._dice.choice((-86_400, -3_600, 3_600, 86_400)))
        self._wait(1.0, 8.0)
        replica.set_clock(0)

    def _move(self) -> None:
        vm_id = self.moves.move(self._dice)
        self._wait(0.0, 5.0)
        if vm_id:
            self.moves.put_right(vm_id)

    def _restart_database(self) -> None:
        server = self.place.server
        assert server is not None
        server.stop()
        self._wait(0.0, 5.0)
        server.start()

    def _starve_database(self) -> None:
        server = self.place.server
        assert server is not None
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(psycopg.OperationalError):
                for _ in range(200):
                    stack.enter_context(contextlib.closing(psycopg.connect(server.url + "postgres", connect_timeout=5)))
            self._wait(0.5, 4.0)
