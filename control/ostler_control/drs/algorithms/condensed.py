"""condensed: VMs on as few hosts as will hold them."""

from __future__ import annotations

import numpy as np

from ostler_control.drs.algorithms.base import Algorithm
from ostler_control.drs.imbalance import Bools, Floats
from ostler_control.drs.settings import Settings


class Condensed(Algorithm):
    """Acts while the imbalance is below drs.imbalance; of `both` metrics the lower one counts.

    Hosts that are as good as full are not measured: nothing more can be packed on them. drs.imbalance 1.0 (no imbalance
    is uneven enough) means always, because the imbalance of a packed cluster has no upper bound of 1.
    """

    name = "condensed"
    lowers = False
    empties_hosts = True

    def combine(self, imbalances: list[Floats]) -> Floats:
        found: Floats = np.minimum.reduce(imbalances)
        return found

    def skipped(self, full: Floats, settings: Settings) -> Bools:
        threshold = settings.imbalance_condensed_skip_threshold
        found: Bools = full > threshold if settings.metric_type == "used" else 1.0 - full < threshold
        return found

    def needs_drs(self, imbalance: float, settings: Settings) -> bool:
        return settings.imbalance >= 1.0 or imbalance < settings.imbalance
