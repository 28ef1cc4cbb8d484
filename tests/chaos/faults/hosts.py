"""Faults of hosts: of their network, agents, hypervisors and pools, and admins who work on them by hand."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.faults import Kinds, Wait
from tests.chaos.moves import Moves
from tests.chaos.site import Place
from tests.fakes.relay import Relay

NAMES = ("h1", "h2", "h3")
# An agent that is to die at work passes fewer points than this, and has so long to come to one.
POINTS, AT_WORK_S = 5, 8.0


@dataclass
class HostFaults:
    """Those of one run."""

    place: Place
    moves: Moves
    dice: random.Random
    wait: Wait

    def kinds(self) -> Kinds:
        """All there are."""
        found: Kinds = {
            "cut a host": (4, self._cut),
            "kill an agent": (2, self._kill_agent),
            "kill an agent in the middle of a job": (4, self._kill_agent_at_work),
            "end a hypervisor's daemon": (3, self._end_daemon),
            "fill a pool": (2, self._fill_pool),
            "move a VM behind Ostler's back": (3, lambda: self._meddle(self.moves.move)),
            "stop a VM behind Ostler's back": (2, lambda: self._meddle(self.moves.stop)),
            "start a VM behind Ostler's back": (2, lambda: self._meddle(self.moves.start)),
            "undefine a VM behind Ostler's back": (2, lambda: self._meddle(self.moves.undefine)),
        }
        wires = self.place.wires
        if wires.link is not None:
            found["half-open a host"] = (3, lambda: self._wire(lambda relay: wires.half_open(relay, self.dice)))
            found["stop all packets of a host"] = (2, lambda: self._wire(wires.stop))
        return found

    def _cut(self) -> None:
        relay = self.place.hosts[self.dice.choice(NAMES)]
        relay.cut()
        self.wait(0.5, 15.0)
        relay.heal()

    def _wire(self, begin: Callable[[Relay], None]) -> None:
        relay = self.place.hosts[self.dice.choice(NAMES)]
        begin(relay)
        self.wait(0.5, 15.0)
        self.place.wires.heal([relay])

    def _kill_agent(self) -> None:
        host = self.place.site.hosts[self.dice.choice(NAMES)]
        host.kill()
        self.wait(0.0, 3.0)
        host.revive()

    def _kill_agent_at_work(self) -> None:
        """In the middle of what a job does, at the first that comes to it."""
        hosts = [self.place.site.hosts[name] for name in ("h1", "h2")]
        for host in hosts:
            host.life.die_at(self.dice.randrange(POINTS))
        end = time.monotonic() + AT_WORK_S
        while time.monotonic() < end and not any(host.life.died.is_set() for host in hosts):
            time.sleep(0.02)
        for host in hosts:
            host.life.die_at(None)
        dead = [host for host in hosts if host.life.died.is_set()] or hosts[:1]  # nothing was done meanwhile
        for host in dead:
            host.kill()
        self.wait(0.0, 3.0)
        for host in dead:
            host.revive()

    def _end_daemon(self) -> None:
        """VMs go on, and agents get no answers: maybe also to what was done."""
        host = self.place.site.hosts[self.dice.choice(("h1", "h2"))]
        host.daemon_away = True
        self.wait(0.5, 8.0)
        host.daemon_away = False

    def _fill_pool(self) -> None:
        pool_id = self.place.site.pools["shared"].id
        self.place.site.fleet.full.add(pool_id)
        self.wait(0.5, 6.0)
        self.place.site.fleet.full.discard(pool_id)

    def _meddle(self, act: Callable[[random.Random], str]) -> None:
        vm_id = act(self.dice)
        self.wait(0.0, 5.0)
        if vm_id:
            self.moves.put_right(vm_id)
