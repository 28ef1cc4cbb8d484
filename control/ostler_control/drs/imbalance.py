"""How unevenly a cluster is loaded: population standard deviation / mean of one number a host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Gauge:
    """What is measured of each host, as a straight line of its load: base + per_cpu * MHz + per_memory * bytes.

    Being a straight line is what makes a candidate move cost O(1): it changes two hosts' numbers by amounts known
    beforehand. Within one gauge all slopes have the same sign.
    """

    base: Floats
    per_cpu: Floats
    per_memory: Floats

    def values(self, cpu: Floats, memory: Floats) -> Floats:
        """The number of each host."""
        return self.base + self.per_cpu * cpu + self.per_memory * memory


def imbalance(values: Floats) -> float:
    """0.0 for an empty cluster, and for one whose mean is 0."""
    if values.size == 0:
        return 0.0
    mean = float(values.mean())
    return float(values.std()) / abs(mean) if mean else 0.0


def from_moments(variance: Floats, mean: Floats) -> Floats:
    """The same of many cases at once. Variances may be a rounding error below 0."""
    divisor = np.where(mean == 0.0, np.inf, np.abs(mean))
    found: Floats = np.sqrt(np.maximum(variance, 0.0)) / divisor
    return found
