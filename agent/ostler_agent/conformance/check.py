"""The words that checks are written in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ostler_common.errors import OstlerError
from ostler_common.hypervisors import Function

if TYPE_CHECKING:
    from ostler_agent.conformance.bench import Bench

LOOK_INTERVAL_S = 0.05
PATIENCE_S = 20.0


class Outcome(StrEnum):
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One check. name: subject.what; function: skipped unless the driver states it; guest: needs an image to boot."""

    name: str
    summary: str
    work: Callable[[Bench], None]
    function: Function | None = None
    guest: bool = False


@dataclass(frozen=True)
class Result:
    """How a check ended. detail: what is wrong, or why it was skipped."""

    check: Check
    outcome: Outcome
    detail: str = ""
    elapsed_s: float = 0.0


class CheckFailedError(Exception):
    """The driver does not do what it must; says what."""


class SkippedError(Exception):
    """The check cannot be made here; says why."""


def require(condition: object, what: str) -> None:
    """Raises CheckFailedError unless the condition holds. what: how it has to be."""
    if not condition:
        raise CheckFailedError(what)


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Raises CheckFailedError when it does not come to hold in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        require(time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s")
        time.sleep(LOOK_INTERVAL_S)


@contextmanager
def refused(call: str, *reasons: str) -> Iterator[None]:
    """Raises CheckFailedError unless the block is refused for one of these reasons (none: for whatever reason)."""
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
