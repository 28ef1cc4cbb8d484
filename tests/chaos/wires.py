"""The networks between clients, control planes, agents and PostgreSQL, each before a relay.

Where this process may, they are one link whose packets are lost, delayed, reordered or stopped one by one
(`tests.fakes.link`), so that the TCP of the kernel meets it. The relays cut connections off for good: a network that
is back has forgotten them.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.fakes.link import Link, Weather, link, missing
from tests.fakes.relay import Relay

LOST = 0.2
DELAY_S, JITTER_S = 0.05, 0.2
# TCP sends a lost packet again after 0.2 s at the soonest (RFC 6298, with Linux's minimum).
RETRANSMISSION_S = 0.25


@dataclass
class Wires:
    """link: None where this process may make none."""

    stack: contextlib.ExitStack
    seed: int
    link: Link | None = None
    relays: list[Relay] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._weather: dict[int, Weather] = {}
        if missing() is None:
            self.link = self.stack.enter_context(link(self.seed))

    def add(self, port: int) -> Relay:
        """One more network, before the server on this port."""
        relay = Relay(port, self.link.near if self.link else "127.0.0.1")
        self.stack.callback(relay.close)
        self.relays.append(relay)
        return relay

    def address(self, relay: Relay) -> str:
        """What reaches the server behind it."""
        return f"{self.link.far if self.link else '127.0.0.1'}:{relay.port}"

    def lose(self) -> list[Relay]:
        """A fifth of all packets, in both directions. Without a link, a fifth of what is sent comes later by a
        retransmission."""
        return self._everywhere(Weather(to=LOST, back=LOST), RETRANSMISSION_S)

    def delay(self) -> list[Relay]:
        """Packets come late and overtake each other."""
        return self._everywhere(Weather(delay_s=DELAY_S, jitter_s=JITTER_S), JITTER_S)

    def half_open(self, relay: Relay, dice: random.Random) -> None:
        """In one direction nothing arrives any more. Needs the link."""
        self._set([relay], Weather(to=1.0) if dice.random() < 0.5 else Weather(back=1.0))

    def stop(self, relay: Relay) -> None:
        """Nothing arrives any more; once healed, connections go on. Needs the link."""
        self._set([relay], Weather(to=1.0, back=1.0))

    def heal(self, relays: Iterable[Relay]) -> None:
        """These are as before."""
        for relay in relays:
            relay.heal()
        self._set(relays, None)

    def _everywhere(self, weather: Weather, delay_s: float) -> list[Relay]:
        if self.link is None:
            for relay in self.relays:
                relay.delay(LOST, delay_s)
        self._set(self.relays, weather)
        return self.relays

    def _set(self, relays: Iterable[Relay], weather: Weather | None) -> None:
        with self._lock:
            for relay in relays:
                if weather is None:
                    self._weather.pop(relay.port, None)
                else:
                    self._weather[relay.port] = weather
            if self.link is not None:
                self.link.set(self._weather)
