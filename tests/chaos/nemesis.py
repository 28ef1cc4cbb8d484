"""What breaks: faults that end by themselves. Those of hosts come beside those of control planes and their database."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.faults import Kinds, Wait
from tests.chaos.faults.control import ControlFaults
from tests.chaos.faults.hosts import HostFaults
from tests.chaos.moves import Moves
from tests.chaos.site import Place

QUIET_S = (0.5, 2.0)  # between faults


@dataclass
class Nemesis:
    """injected: faults by kind."""

    place: Place
    seed: int
    injected: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.moves = Moves(self.place.site, self.place.powers.ended)

    def work(self, duration_s: float) -> None:
        """Call it in the main thread: PostgreSQL dies with the thread that starts it."""
        end = time.monotonic() + duration_s
        failed: list[BaseException] = []

        def of_hosts() -> None:
            try:
                dice = random.Random(f"{self.seed}/hosts")
                faults = HostFaults(self.place, self.moves, dice, waiting(dice))
                self._inject(dice, faults.kinds(), end)
            except BaseException as error:
                failed.append(error)
                raise

        beside = threading.Thread(target=of_hosts, daemon=True)
        beside.start()
        dice = random.Random(f"{self.seed}/control")
        self._inject(dice, ControlFaults(self.place, dice, waiting(dice)).kinds(), end)
        beside.join()
        assert not failed, failed

    def _inject(self, dice: random.Random, kinds: Kinds, end: float) -> None:
        """One fault after the other."""
        names = sorted(kinds)
        wait = waiting(dice)
        while time.monotonic() < end:
            wait(*QUIET_S)
            kind = dice.choices(names, [kinds[name][0] for name in names])[0]
            kinds[kind][1]()
            self.injected[kind] += 1


def waiting(dice: random.Random) -> Wait:
    """Sleeps between so many and so many seconds."""
    return lambda least_s, most_s: time.sleep(dice.uniform(least_s, most_s))
