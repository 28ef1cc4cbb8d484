"""Every test that the table of threats names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRUST = ROOT / "docs" / "trust.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def rows() -> list[list[str]]:
    """The table of threats, without its head."""
    _, _, text = TRUST.read_text().partition("## Threats\n")
    table = text.partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_named_test_exists() -> None:
    named = _TEST.findall(TRUST.read_text())
    assert len(named) > 30
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert not test or test in functions(ROOT / file), f"{file} has no {test}"


def test_every_threat_names_who_what_and_its_tests() -> None:
    assert len(rows()) > 15
    for row in rows():
        assert len(row) == 4, row
        assert all(row), row
        assert _TEST.search(row[3]), f"no test: {row[0]}, {row[1]}"
