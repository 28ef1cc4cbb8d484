"""The pools eligible for a new disk."""

from __future__ import annotations

from collections.abc import Iterable

from ostler_common.errors import FailedPreconditionError

from ostler_control.placement.facts import PoolFacts
from ostler_control.placement.words import count, in_words


def choose_pools(name: str, size_bytes: int, encrypted: bool, pools: Iterable[PoolFacts]) -> tuple[str, ...]:
    """Ids of the eligible pools for a new disk of this size, best first: shared ones (their VMs move without copying),
    then the one with the most space, then by id.

    Raises FailedPreconditionError (NO_FEASIBLE_POOL) whose message counts the refusals.
    """
    fitting: list[PoolFacts] = []
    refused: list[str] = []
    for pool in pools:
        if encrypted and not pool.encryption:
            refused.append("LACKS_ENCRYPTION")
        elif pool.available_bytes < size_bytes:
            refused.append("LACKS_SPACE")
        else:
            fitting.append(pool)
    if not fitting:
        counts = count(refused)
        raise FailedPreconditionError(
            f"no storage pool fits {name}: {in_words(counts) or 'no host reaches any'}",
            "NO_FEASIBLE_POOL",
            {"name": name, **{code: str(number) for code, number in counts.items()}},
        )
    return tuple(
        pool.id for pool in sorted(fitting, key=lambda pool: (not pool.shared, -pool.available_bytes, pool.id))
    )
