"""When to connect to a host again, and how many per second."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

# To connect to a host and to record what it reports takes about 5 ms of CPU; calls need the rest. At this pace they are
# answered nearly as soon as at two thirds of it (docs/benchmarks.md).
CONNECTIONS_PER_S = 150


def delay_s(
    failures: int, *, min_s: float, max_s: float, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """How long to wait after so many failures in a row (from 1): doubles up to max_s, and of that a random part between
    half and all, so that a thousand hosts that were lost together are not connected to at the same moment."""
    ceiling = min(max_s, min_s * 2.0 ** min(failures - 1, 30))
    return uniform(ceiling / 2, ceiling)


class Pace:
    """Lets callers through one after another, at most per_s of them per second."""

    def __init__(self, per_s: float = CONNECTIONS_PER_S) -> None:
        self._gap_s = 1 / per_s
        self._next = 0.0

    async def turn(self) -> None:
        """Returns when it is the caller's turn."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next + self._gap_s, now)
        await asyncio.sleep(self._next - now)
