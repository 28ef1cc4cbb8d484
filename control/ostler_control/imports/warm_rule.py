"""When a warm copy is quiet, so that another round gains nothing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A round that brings more than this share of the one before it does not shrink any more.
_SHRINKS_TO_PERCENT = 80


@dataclass(frozen=True)
class QuietRule:
    """quiet_bytes: a round of at most this is small enough; max_rounds: no more than this many."""

    quiet_bytes: int
    max_rounds: int


def why_quiet(rule: QuietRule, deltas: Sequence[int]) -> str:
    """Why the copy is quiet, "" while it is not. deltas: bytes that changed, by round, without the full copy."""
    if not deltas:
        return ""
    last = deltas[-1]
    if last <= rule.quiet_bytes:
        return f"only {last >> 20} MiB changed"
    if len(deltas) > 1 and last * 100 > deltas[-2] * _SHRINKS_TO_PERCENT:
        return f"{last >> 20} MiB changed, about as much as in the round before"
    if len(deltas) >= rule.max_rounds:
        return f"{len(deltas)} rounds are done"
    return ""
