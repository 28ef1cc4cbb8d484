"""The exit codes of `ostler`, decided here and nowhere else (docs/cli.md explains them to users)."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the shell gets."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    UNREACHABLE = 5
    CONFLICT = 6
    NO_CAPACITY = 7
    TIMED_OUT = 8
    CANCELLED = 9
    INTERRUPTED = 130


_BY_CODE = {
    "INVALID_ARGUMENT": Exit.USAGE,
    "NOT_FOUND": Exit.NOT_FOUND,
    "PERMISSION_DENIED": Exit.DENIED,
    "UNAUTHENTICATED": Exit.DENIED,
    "UNAVAILABLE": Exit.UNREACHABLE,
    "ALREADY_EXISTS": Exit.CONFLICT,
    "FAILED_PRECONDITION": Exit.CONFLICT,
    "ABORTED": Exit.CONFLICT,
    "RESOURCE_EXHAUSTED": Exit.NO_CAPACITY,
    "DEADLINE_EXCEEDED": Exit.TIMED_OUT,
    "CANCELLED": Exit.CANCELLED,
}


# Where the reason says more than the code.
_BY_REASON = {
    "NO_FEASIBLE_HOST": Exit.NO_CAPACITY,
    "NO_FEASIBLE_POOL": Exit.NO_CAPACITY,
}


def exit_of(code: str, reason: str) -> Exit:
    """The exit code for an error: the name of its gRPC status code, and its reason."""
    return _BY_REASON.get(reason) or _BY_CODE.get(code, Exit.FAILED)
