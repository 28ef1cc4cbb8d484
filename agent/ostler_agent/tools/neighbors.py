"""The host's neighbor tables, ARP and NDP: which MAC address was last seen with which IP address (ip-neighbour(8))."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from ostler_agent.process import run

TIMEOUT_S = 5
# The kernel asks, or has asked in vain.
_UNANSWERED = frozenset({"INCOMPLETE", "FAILED", "NONE"})


@dataclass(frozen=True)
class Neighbor:
    """An entry: an IP address with a MAC address (lower case) behind a network device of the host."""

    address: str
    mac: str
    device: str


class Entry(TypedDict, total=False):
    """What `ip` prints of an entry."""

    dst: str
    lladdr: str
    dev: str
    state: Sequence[str]
    router: None


def read() -> list[Neighbor]:
    """All entries that somebody has answered for."""
    return parse(json.loads(run(("ip", "-json", "neighbor", "show"), timeout_s=TIMEOUT_S).stdout or "[]"))


def parse(entries: Iterable[Entry]) -> list[Neighbor]:
    """The entries of `ip -json neighbor show` that somebody has answered for."""
    return [
        Neighbor(entry.get("dst", ""), entry["lladdr"].lower(), entry.get("dev", ""))
        for entry in entries
        if entry.get("lladdr") and _UNANSWERED.isdisjoint(entry.get("state", ()))
    ]
