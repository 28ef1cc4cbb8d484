"""Faults of hosts: of their network, agents, hypervisors and pools, and admins who work on them by hand."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
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
            "cut a host": (4, lambda: self._cut(NAMES, 0.5, 15.0)),
            "cut a host until it is fenced": (2, lambda: self._cut(NAMES[:2], 35.0, 60.0)),
            "kill an agent": (2, self._kill_agent),
            "kill an agent in the middle of a job": (4, self._kill_agent_at_work),
            "cut the power of a host": (3, self._cut_power),
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

    def _cut(self, names: Sequence[str], least_s: float, most_s: float) -> None:
        relay = self.place.hosts[self.dice.choice(names)]
        relay.cut()
        self.wait(least_s, most_s)
        relay.heal()

    def _wire(self, begin: Callable[[Relay], None]) -> None:
        relay = self.place.hosts[self.dice.choice(NAMES)]
        begin(relay)
        self.wait(0.5, 15.0)
        self.place.wires.heal([relay])

    def _kill_agent(self) -> None:
        name = self.dice.choice(NAMES)
        self.place.powers.kill_agent(name)
        self.wait(0.0, 3.0)
        self.place.powers.revive_agent(name)

    def _kill_agent_at_work(self) -> None:
        """In the middle of what a job does, at the first that comes to it."""
        hosts = {name: self.place.site.hosts[name] for name in ("h1", "h2")}
        for host in hosts.values():
            host.life.die_at(self.dice.randrange(POINTS))
        end = time.monotonic() + AT_WORK_S
        while time.monotonic() < end and not any(host.life.died.is_set() for host in hosts.values()):
            time.sleep(0.02)
        for host in hosts.values():
            host.life.die_at(None)
        # Of those that have died; the first, if nothing was done meanwhile.
        dead = [name for name, host in hosts.items() if host.life.died.is_set()] or ["h1"]
        for name in dead:
            self.place.powers.kill_agent(name)
        self.wait(0.0, 3.0)
        for name in dead:
            self.place.powers.revive_agent(name)

    def _cut_power(self) -> None:
        """The host comes back by itself, after a while or by Ostler's hand."""
        self.place.powers.cut(self.dice.choice(("h1", "h2")))
        self.wait(0.0, 10.0)

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
