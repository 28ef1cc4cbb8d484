"""Which of several control replicas watches the fleet: the living one with the smallest id.

Two may think so for a moment. That costs connections and nothing else: what a watcher writes it writes only over what
it has read.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

from ostler_control.database import is_sqlite, session
from ostler_control.models import Replica

# A heartbeat that stands still for so long, by our own clock, is that of a dead replica.
SILENCE_S = 30.0


class Leader:
    """Asked again and again by one replica whether it is the one."""

    def __init__(self, replica: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._replica = replica
        self._clock = clock
        self._seen: dict[str, tuple[datetime.datetime, float]] = {}

    def is_me(self) -> bool:
        """Whether this replica is to watch now."""
        if is_sqlite():
            return True
        with session():
            others: Any = Replica.select(Replica.id, Replica.heartbeat_time).where(Replica.id != self._replica).tuples()
            beats: dict[str, datetime.datetime] = dict(others)
        clock = self._clock()
        self._seen = {
            replica: self._seen[replica] if replica in self._seen and self._seen[replica][0] == beat else (beat, clock)
            for replica, beat in beats.items()
        }
        living = [replica for replica, (_, since) in self._seen.items() if clock - since < SILENCE_S]
        return all(self._replica < replica for replica in living)
