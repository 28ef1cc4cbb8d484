"""What a machine lacks is told, and fails in CI."""

from __future__ import annotations

import pytest

from tests.needs import need, warn_of


def test_elsewhere_a_test_is_skipped_or_its_gap_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    need(None)
    with pytest.raises(pytest.skip.Exception, match="needs root"):
        need("needs root")
    with pytest.warns(UserWarning, match="no packet was lost"):
        warn_of("no packet was lost")


def test_in_ci_both_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    need(None)
    for leave_out in (need, warn_of):
        with pytest.raises(pytest.fail.Exception, match="needs root"):
            leave_out("needs root")
