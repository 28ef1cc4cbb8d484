"""Assertions for checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ostler_common.errors import OstlerError

POLL_INTERVAL_S = 0.05
RETRY_TIMEOUT_S = 20.0


class CheckFailedError(Exception):
    """The driver breaks the contract; the message says how."""


class SkippedError(Exception):
    """The check is impossible here; the message says why."""


def require(condition: object, what: str) -> None:
    """Raises CheckFailedError unless the condition holds. what: the expectation."""
    if not condition:
        raise CheckFailedError(what)


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = RETRY_TIMEOUT_S) -> None:
    """Raises CheckFailedError if the condition does not hold within timeout_s."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        require(time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_INTERVAL_S)


@contextmanager
def refused(call: str, *reasons: str) -> Iterator[None]:
    """Raises CheckFailedError unless the block raises an OstlerError with one of these reasons (none: any reason)."""
    expected = " or ".join(reasons) or "an OstlerError"
    try:
        yield
    except OstlerError as error:
        require(
            not reasons or error.reason in reasons,
            f"{call} must be refused with {expected}, not {error.reason}: {error.message}",
        )
        return
    raise CheckFailedError(f"{call} must be refused with {expected}")
