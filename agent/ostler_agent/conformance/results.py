"""The results of checks, and how they are obtained and printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog
from ostler_common.errors import OstlerError

from ostler_agent.conformance.assertions import CheckFailedError, SkippedError

log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Result:
    """The outcome of a check. detail: what is wrong, or why it was skipped."""

    name: str
    summary: str
    outcome: Outcome
    detail: str = ""
    elapsed_s: float = 0.0


def attempt(name: str, check: Callable[[], None], clean_up: Callable[[], None]) -> tuple[Outcome, str]:
    """Runs a check and cleans up after it. A failure to clean up does not hide the check's finding."""
    outcome, detail = _attempt(name, check)
    cleaned_up, failure = _attempt(name, clean_up)
    if cleaned_up is Outcome.FAILED:
        outcome, detail = Outcome.FAILED, f"{detail}; " * bool(detail) + f"cleaning up failed: {failure}"
    return outcome, detail


def report(results: Iterable[Result], output: str) -> int:
    """Prints results as they arrive (table) or at the end (json); returns the exit code: 1 if a check failed."""
    seen = []
    for result in results:
        seen.append(result)
        if output == "table":
            line = f"{result.name:<24}{result.outcome:<9}{result.elapsed_s:5.1f} s  {result.detail}"
            print(line.rstrip(), flush=True)
    if output == "json":
        print(json.dumps([_to_json(result) for result in seen], indent=2))
    else:
        print(_counts(seen))
    return 1 if any(result.outcome is Outcome.FAILED for result in seen) else 0


def _attempt(name: str, call: Callable[[], None]) -> tuple[Outcome, str]:
    try:
        call()
    except CheckFailedError as error:
        return Outcome.FAILED, str(error)
    except SkippedError as error:
        return Outcome.SKIPPED, str(error)
    except OstlerError as error:
        return Outcome.FAILED, f"{error.reason}: {error.message}"
    except Exception as error:  # what is checked may raise anything; the other checks must run
        log.debug("a check raised", check=name, exc_info=True)
        return Outcome.FAILED, f"{type(error).__name__}: {error}"
    return Outcome.OK, ""


def _counts(results: Sequence[Result]) -> str:
    return ", ".join(f"{sum(result.outcome is outcome for result in results)} {outcome}" for outcome in Outcome)


def _to_json(result: Result) -> dict[str, object]:
    return {
        "check": result.name,
        "summary": result.summary,
        "outcome": result.outcome,
        "detail": result.detail,
        "elapsed_s": round(result.elapsed_s, 3),
    }
