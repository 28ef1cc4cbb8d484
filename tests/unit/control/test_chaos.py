"""A short run of random work while things break; `make chaos` hunts for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import databases
from tests.chaos.history import Outcome
from tests.chaos.run import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.mark.parametrize("replicas", [1, 3])
def test_answers_are_kept_whatever_breaks(tmp_path: Path, replicas: int) -> None:
    if replicas > 1 and databases.postgresql_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    verdict = run(tmp_path, seed=3, duration_s=15, replicas=replicas)
    assert verdict.violations == [], "\n".join(verdict.lines())
    assert verdict.injected.total() > 0
    assert sum(call.outcome is Outcome.DONE for call in verdict.calls) > 20
