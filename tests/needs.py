"""What a test needs of the machine. CI has all of it, and fails when something is left out: nobody would notice."""

from __future__ import annotations

import os
import warnings

import pytest


def need(missing: str | None) -> None:
    """Skips the test if something is missing; in CI it fails."""
    if missing is not None:
        _in_ci_fail(missing)
        pytest.skip(missing)


def warn_of(left_out: str) -> None:
    """Says in the summary of the tests what this one has left out; in CI it fails."""
    _in_ci_fail(left_out)
    warnings.warn(left_out, stacklevel=2)


def _in_ci_fail(why: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI nothing may be left out: {why}")
