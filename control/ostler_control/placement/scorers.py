"""Scorers: each answers 0 to 1 (affinity: from -1), and a table of weights adds them up."""

from __future__ import annotations

from collections.abc import Callable

from ostler_control.placement.facts import Demand, HostFacts

Scorer = Callable[[Demand, HostFacts], float]


def score(demand: Demand, host: HostFacts) -> float:
    """The score of an eligible host; larger is better."""
    return sum(weight * scorer(demand, host) for weight, scorer in SCORERS)


def _free_memory(demand: Demand, host: HostFacts) -> float:
    return (host.free_memory_bytes - demand.memory_bytes) / (host.usable_memory_bytes or 1)


def _free_cpus(demand: Demand, host: HostFacts) -> float:
    return (host.free_cpus - demand.cpus) / (host.usable_cpus or 1)


def _balance(demand: Demand, host: HostFacts) -> float:
    """Free memory without free CPUs is stranded, and the other way round."""
    return 1.0 - abs(_free_memory(demand, host) - _free_cpus(demand, host))


def _preferred(demand: Demand, host: HostFacts) -> float:
    return float(demand.preferred_host_id == host.id)


def _affinity(demand: Demand, host: HostFacts) -> float:
    """Prefers and avoids hosts as the affinity groups say."""
    rules = demand.affinity
    return float(host.id in rules.prefer) - float(host.id in rules.avoid) if rules else 0.0


# The free shares after placing spread VMs; memory counts most because it cannot be time-sliced.
SCORERS: tuple[tuple[float, Scorer], ...] = (
    (1.0, _free_memory),
    (0.5, _free_cpus),
    (0.25, _balance),
    (10.0, _affinity),
    (100.0, _preferred),
)
