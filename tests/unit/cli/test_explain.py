"""`ostler explain`: no control plane is asked."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result
from ostler_common.reasons import explanations
from ostler_control.cli.main import root

from tests.unit.cli.completions import complete


def _explain(*arguments: str) -> Result:
    return CliRunner(env={"OSTLER_PROFILE": "/nowhere"}).invoke(root, ["explain", *arguments], prog_name="ostler")


def test_a_reason_is_explained_without_a_profile() -> None:
    result = _explain("NO_FEASIBLE_HOST")
    assert result.exit_code == 0
    assert explanations()["NO_FEASIBLE_HOST"].means in result.stdout
    assert "ostler vm hosts VM" in result.stdout


def test_it_is_found_as_people_paste_it() -> None:
    assert _explain("[no_feasible_host]").stdout == _explain("NO_FEASIBLE_HOST").stdout


def test_programs_get_it_as_data() -> None:
    found = json.loads(_explain("KEK_READ_ONLY", "-o", "json").stdout)
    assert found["reason"] == "KEK_READ_ONLY"
    assert "docs/keys.md shows" in found["remedy"]


def test_a_reason_that_there_is_not_is_refused_with_those_like_it() -> None:
    result = _explain("NO_FEASIBLE_HOTS")
    assert result.exit_code == 3
    assert "REASON_NOT_FOUND" in result.stderr
    assert "NO_FEASIBLE_HOST" in result.stderr


def test_the_shell_completes_reasons(tmp_path: Path) -> None:
    assert complete(tmp_path / "none.toml", "ostler explain NO_FEASIBLE_") == [
        "NO_FEASIBLE_HOST",
        "NO_FEASIBLE_PLACE",
        "NO_FEASIBLE_POOL",
    ]
