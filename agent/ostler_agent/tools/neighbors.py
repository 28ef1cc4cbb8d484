"""The host's neighbor tables, ARP and NDP: which MAC address was last seen with which IP address (ip-neighbour(8))."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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


def read() -> list[Neighbor]:
    """All entries that somebody has answered for."""
    return parse(json.loads(run(("ip", "-json", "neighbor", "show"), timeout_s=TIMEOUT_S).stdout or "[]"))


# Any: what `ip` prints.
def parse(entries: Iterable[Mapping[str, Any]]) -> list[Neighbor]:
    """The entries of `ip -json neighbor show` that somebody has answered for."""
    return [
        Neighbor(str(entry.get("dst", "")), str(entry["lladdr"]).lower(), str(entry.get("dev", "")))
        for entry in entries
        if entry.get("lladdr") and _UNANSWERED.isdisjoint(entry.get("state", ()))
    ]
