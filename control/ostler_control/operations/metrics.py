"""Metrics of operations that this process has ended."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

ENDED = Counter(
    "ostler_operations_ended", "Operations that have ended, by verb and outcome.", ("verb", "outcome"), registry=None
)
DURATION = Histogram(
    "ostler_operation_duration_seconds",
    "How long operations took, from request to end.",
    ("verb",),
    buckets=(0.5, 2, 10, 60, 300, 1800, 7200, 86400),
    registry=None,
)


def count_operation(verb: str, outcome: str, duration_s: float) -> None:
    """Counts an operation that has ended."""
    ENDED.labels(verb, outcome).inc()
    DURATION.labels(verb).observe(max(0.0, duration_s))
