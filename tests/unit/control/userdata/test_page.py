"""The merge table of docs/user-data.md is what the merge does."""

from __future__ import annotations

from pathlib import Path

from ostler_control.userdata import matrix

PAGE = Path(__file__).parents[4] / "docs" / "user-data.md"


def test_the_page_is_in_step() -> None:
    assert PAGE.read_text() == matrix.page_with_table(PAGE.read_text()), "run: make userdata-table"
