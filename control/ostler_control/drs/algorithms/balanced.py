"""balanced: all hosts alike."""

from __future__ import annotations

from ostler_control.drs.algorithms.base import Algorithm
from ostler_control.drs.settings import Settings


class Balanced(Algorithm):
    """Acts while the imbalance is above 1 - drs.imbalance; of `both` metrics the worse one counts.

    drs.imbalance 0.0 (any imbalance is allowed) means never, though a skewed cluster has more than 1.
    """

    name = "balanced"

    def needs_drs(self, imbalance: float, settings: Settings) -> bool:
        return settings.imbalance > 0.0 and imbalance > 1.0 - settings.imbalance
