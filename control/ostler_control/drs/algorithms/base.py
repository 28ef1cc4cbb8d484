"""What an algorithm says to the planner. A plug-in derives from `Algorithm` and changes what it wants otherwise."""

from __future__ import annotations

import numpy as np

from ostler_control.drs.imbalance import Bools, Floats, Gauge
from ostler_control.drs.settings import Settings


class Algorithm:
    """Evens out drs.metric, one gainful move after another.

    lowers: whether moves are to lower the imbalance or to raise it; empties_hosts: whether the planner empties whole
    hosts rather than choosing single moves.
    """

    name = ""
    lowers = True
    empties_hosts = False

    def gauges(self, cpu: Floats, memory: Floats, settings: Settings) -> list[Gauge]:
        """What is measured, for hosts of which VMs may be given this much CPU (MHz) and memory (bytes)."""
        none = np.zeros_like(cpu)

        def gauge(total: Floats, is_cpu: bool) -> Gauge:
            divisor = np.maximum(total, 1.0) if settings.metric_use_ratio else np.ones_like(total)
            base, slope = (none, 1 / divisor) if settings.metric_type == "used" else (total / divisor, -1 / divisor)
            return Gauge(base, slope, none) if is_cpu else Gauge(base, none, slope)

        every = {"cpu": gauge(cpu, True), "memory": gauge(memory, False)}
        return [every[name] for name in every if settings.resource in (name, "both")]

    def penalty(self, values: Floats, settings: Settings) -> Floats | None:
        """What each host's number costs the cluster, for other measures than evenness: the imbalance of a gauge is then
        the mean of these instead of standard deviation / mean. As "lower the peak": `values**8`. None: evenness.

        values: gauges first. Asked for every candidate move, so it should be a few array operations. It must be 0 or
        more, and depend on each number alone.
        """
        return None

    @property
    def skips_hosts(self) -> bool:
        """Whether `skipped` is to be asked at all."""
        return type(self).skipped is not Algorithm.skipped

    def combine(self, imbalances: list[Floats]) -> Floats:
        """One imbalance of those of several gauges; never falls when one of them rises."""
        found: Floats = np.maximum.reduce(imbalances)
        return found

    def skipped(self, full: Floats, settings: Settings) -> Bools:
        """Hosts that `needs_drs` does not count, for each gauge: here none. full: for each gauge the used share of each
        host."""
        return np.zeros(full.shape, dtype=bool)

    def needs_drs(self, imbalance: float, settings: Settings) -> bool:
        """Whether the cluster is to be improved; asked before every move (every host, where hosts are emptied)."""
        raise NotImplementedError

    def gain(self, before: float, after: Floats) -> Floats:
        """What candidates bring. Never falls when `after` goes the way of `lowers`; the planner relies on it."""
        return before - after if self.lowers else after - before

    def score(self, gain: Floats, cost: Floats, settings: Settings) -> Floats:
        """What candidates are worth; those above 0 are made, the best first. Rises with gain and falls with cost.

        cost: bytes to send as a share of the memory of all measured hosts, so that it is as small as gains are in a
        large cluster."""
        return gain - settings.cost_weight * cost
