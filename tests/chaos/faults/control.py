"""Faults of control planes, of their network, and of PostgreSQL."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from tests.chaos.faults import Kinds, Wait
from tests.chaos.site import Place
from tests.databases import PostgresServer
from tests.fakes.relay import Relay


@dataclass
class ControlFaults:
    """Those of one run."""

    place: Place
    dice: random.Random
    wait: Wait

    def kinds(self) -> Kinds:
        """After a cut of the control plane all clients wait for a while, so it is rare."""
        found: Kinds = {
            "kill": (4, self._kill),
            "freeze": (3, self._freeze),
            "cut the control plane": (1, self._cut),
            "set a clock wrong": (2, self._set_clock),
            "lose packets": (3, lambda: self._weather(self.place.wires.lose)),
            "delay packets": (1, lambda: self._weather(self.place.wires.delay)),
        }
        if self.place.wires.link is not None:
            controls = [replica.relay for replica in self.place.replicas]
            found["half-open the control plane"] = (1, lambda: self._half_open(controls))
        if self.place.disk is not None:
            found["fill the disk of the control plane"] = (2, self._fill_disk)
        return found | (self._of_database(self.place.server) if self.place.server is not None else {})

    def _of_database(self, server: PostgresServer) -> Kinds:
        ways = [replica.database for replica in self.place.replicas if replica.database is not None]
        found: Kinds = {
            "restart PostgreSQL": (2, lambda: self._restart(server, crash=False)),
            "kill PostgreSQL": (1, lambda: self._restart(server, crash=True)),
            "use up its connections": (2, lambda: self._starve(server)),
        }
        if self.place.wires.link is not None:
            found["half-open a connection to PostgreSQL"] = (2, lambda: self._half_open(ways))
            found["cut a control plane off from PostgreSQL"] = (2, lambda: self._stop(ways))
        if server.disks is not None:
            found["fill the disk of its tables"] = (2, lambda: self._fill_tables(server))
            found["fill the disk of its log of writes"] = (2, lambda: self._fill_wal(server))
        return found

    def _kill(self) -> None:
        replica = self.dice.choice(self.place.replicas)
        replica.kill()
        self.wait(0.0, 2.0)
        replica.start()
        self.place.wait_for_replicas()

    def _freeze(self) -> None:
        replica = self.dice.choice(self.place.replicas)
        replica.signal(signal.SIGSTOP)
        self.wait(0.5, 12.0)
        replica.signal(signal.SIGCONT)

    def _set_clock(self) -> None:
        replica = self.dice.choice(self.place.replicas)
        replica.set_clock(self.dice.choice((-86_400, -3_600, 3_600, 86_400)))
        self.wait(1.0, 8.0)
        replica.set_clock(0)

    def _cut(self) -> None:
        relay = self.dice.choice(self.place.replicas).relay
        relay.cut()
        self.wait(0.5, 12.0)
        relay.heal()

    def _weather(self, begin: Callable[[], list[Relay]]) -> None:
        relays = begin()
        self.wait(1.0, 8.0)
        self.place.wires.heal(relays)

    def _half_open(self, relays: list[Relay]) -> None:
        relay = self.dice.choice(relays)
        self.place.wires.half_open(relay, self.dice)
        self.wait(0.5, 15.0)
        self.place.wires.heal([relay])

    def _stop(self, relays: list[Relay]) -> None:
        """No relay keeps these open: PostgreSQL's protocol asks nobody whether they still live, TCP has to tell."""
        relay = self.dice.choice(relays)
        self.place.wires.stop(relay)
        self.wait(0.5, 25.0)
        self.place.wires.heal([relay])

    def _fill_disk(self) -> None:
        assert self.place.disk is not None
        self.place.disk.fill()
        self.wait(0.5, 8.0)
        self.place.disk.free()

    def _fill_tables(self, server: PostgresServer) -> None:
        assert server.disks is not None
        server.disks.tables.fill()
        self.wait(0.5, 8.0)
        server.free()

    def _fill_wal(self, server: PostgresServer) -> None:
        server.fill_wal()
        self.wait(0.0, 5.0)
        server.free()

    def _restart(self, server: PostgresServer, *, crash: bool) -> None:
        server.stop(crash=crash)
        self.wait(0.0, 5.0)
        server.start()

    def _starve(self, server: PostgresServer) -> None:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(psycopg.OperationalError):
                for _ in range(200):
                    stack.enter_context(contextlib.closing(psycopg.connect(server.url + "postgres", connect_timeout=5)))
            self.wait(0.5, 4.0)
