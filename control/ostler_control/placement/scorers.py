"""How well does it fit there? Each scorer answers 0 to 1 (company: from -1); a table of weights adds them up."""

from __future__ import annotations

from collections.abc import Callable

from ostler_control.placement.facts import Demand, HostFacts

Scorer = Callable[[Demand, HostFacts], float]


def score(demand: Demand, host: HostFacts) -> float:
    """The larger the better, for a host that fits."""
    return sum(weight * scorer(demand, host) for weight, scorer in SCORERS)


def _free_memory(demand: Demand, host: HostFacts) -> float:
    return (host.free_memory_bytes - demand.memory_bytes) / (host.usable_memory_bytes or 1)


def _free_cpus(demand: Demand, host: HostFacts) -> float:
    return (host.free_cpus - demand.cpus) / (host.usable_cpus or 1)


def _balance(demand: Demand, host: HostFacts) -> float:
    """Memory that no CPU is left for is stranded, and the other way round."""
    return 1.0 - abs(_free_memory(demand, host) - _free_cpus(demand, host))


def _preferred(demand: Demand, host: HostFacts) -> float:
    return float(demand.preferred_host_id == host.id)


def _company(demand: Demand, host: HostFacts) -> float:
    """Where it rather would be, or not."""
    company = demand.company
    return float(host.id in company.prefer) - float(host.id in company.avoid) if company else 0.0


# Free shares after placing are what spreads VMs; memory counts most because it cannot be shared out in time slices.
SCORERS: tuple[tuple[float, Scorer], ...] = (
    (1.0, _free_memory),
    (0.5, _free_cpus),
    (0.25, _balance),
    (10.0, _company),
    (100.0, _preferred),
)
