"""A short run of random work while things break; `make chaos` hunts for longer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests import databases
from tests.chaos.history import Outcome
from tests.chaos.run import Verdict, run
from tests.needs import need, warn_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.mark.parametrize("replicas", [1, 3])
def test_answers_are_kept_whatever_breaks(tmp_path: Path, replicas: int) -> None:
    need(databases.missing() if replicas > 1 else None)
    verdict = run(tmp_path, seed=3, duration_s=15, replicas=replicas)
    assert verdict.violations == [], "\n".join(verdict.lines())
    assert verdict.injected.total() > 0
    assert sum(call.outcome is Outcome.DONE for call in verdict.calls) > 20
    for left_out in verdict.left_out:
        warn_of(left_out)


def test_a_verdict_says_what_this_machine_has_left_out() -> None:
    verdict = Verdict(1, 2.0, [], Counter(kill=3), 0, [], ["no disk was filled: only root can mount"])
    assert "  left out: no disk was filled: only root can mount" in verdict.lines()
    assert not any("left out" in line for line in replace(verdict, left_out=[]).lines())
