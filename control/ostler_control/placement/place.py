"""Placement: the best host, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable

from ostler_common.errors import FailedPreconditionError

from ostler_control.placement.facts import Candidate, Demand, HostFacts, Placement
from ostler_control.placement.filters import refusal
from ostler_control.placement.scorers import score
from ostler_control.placement.words import count, in_words


def place(demand: Demand, hosts: Iterable[HostFacts]) -> Placement:
    """The best host for a demand; of equal hosts the one whose id sorts first.

    Raises FailedPreconditionError (NO_FEASIBLE_HOST) whose message counts the refusals, as its metadata does by code.
    """
    best: HostFacts | None = None
    best_score = 0.0
    refused: list[str] = []
    for host in hosts:
        no = refusal(demand, host)
        if no:
            refused.append(no.code)
            continue
        points = score(demand, host)
        if best is None or points > best_score or (points == best_score and host.id < best.id):
            best, best_score = host, points
    if best is None:
        raise no_feasible_host(demand, refused)
    return Placement(best.id, best.name, pools_on(demand, best), best_score)


def explain(demand: Demand, hosts: Iterable[HostFacts]) -> list[Candidate]:
    """Every host with its score or refusal: eligible hosts are ranked, best first."""

    def candidate(host: HostFacts) -> Candidate:
        no = refusal(demand, host)
        return Candidate(host.id, host.name, no, 0.0 if no else score(demand, host))

    return sorted(map(candidate, hosts), key=lambda found: (found.refusal is not None, -found.score, found.host_id))


def pools_on(demand: Demand, host: HostFacts) -> tuple[str, ...]:
    """For each disk the first of its pools that this eligible host reaches."""
    return tuple(next(pool for pool in choices if pool in host.pools) for choices in demand.pool_choices)


def no_feasible_host(demand: Demand, refused: list[str]) -> FailedPreconditionError:
    """The error for these refusal codes, one per host."""
    counts = count(refused)
    why = in_words(counts) or "there is no host yet (add one: ostler host token)"
    metadata = {"name": demand.name, **{code: str(number) for code, number in counts.items()}}
    return FailedPreconditionError(f"no host fits {demand.name}: {why}", "NO_FEASIBLE_HOST", metadata)
