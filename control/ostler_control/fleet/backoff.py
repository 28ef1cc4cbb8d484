"""When to try a host again, and how fast to try many."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

# A Python process on two cores manages about 280 new mTLS connections a second; the rest is left for the calls.
CONNECTIONS_PER_S = 100


def delay_s(
    failures: int, *, first_s: float, longest_s: float, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """How long to wait after so many failures in a row (from 1): doubling up to a ceiling, and of that a random half to
    whole, so that a thousand hosts that went away together do not come back together."""
    ceiling = min(longest_s, first_s * 2.0 ** min(failures - 1, 30))
    return uniform(ceiling / 2, ceiling)


class Pace:
    """Lets callers through one after another, at most so many a second."""

    def __init__(self, per_s: float = CONNECTIONS_PER_S) -> None:
        self._gap_s = 1 / per_s
        self._next = 0.0

    async def turn(self) -> None:
        """Returns when it is the caller's turn."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next + self._gap_s, now)
        await asyncio.sleep(self._next - now)
