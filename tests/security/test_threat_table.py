"""Every test that the table of threats names exists."""

from __future__ import annotations

from pathlib import Path

from tests.named_tests import NAMED, check_named, table_rows

ROOT = Path(__file__).parents[2]
TRUST = ROOT / "docs" / "trust.md"


def rows() -> list[list[str]]:
    """The table of threats, without its head."""
    _, _, text = TRUST.read_text().partition("## Threats\n")
    return table_rows(text.partition("\n## ")[0])


def test_every_named_test_exists() -> None:
    assert check_named(TRUST.read_text()) > 30


def test_every_threat_names_who_what_and_its_tests() -> None:
    assert len(rows()) > 15
    for row in rows():
        assert len(row) == 4, row
        assert all(row), row
        assert NAMED.search(row[3]), f"no test: {row[0]}, {row[1]}"
