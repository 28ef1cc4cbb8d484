"""Tests that pages of the documentation name: they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# A file of tests, or one test of it.
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def check_named(text: str) -> int:
    """Asserts that every test which the text names exists; answers how many it names."""
    named = NAMED.findall(text)
    for file, test in named:
        assert (_ROOT / file).is_file(), file
        assert not test or test in _functions(_ROOT / file), f"{file} has no {test}"
    return len(named)


def table_rows(text: str) -> list[list[str]]:
    """The cells of the Markdown tables in a text, row by row, without the tables' heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {at + step for at, line in enumerate(lines) if set(line) <= set("| -") for step in (-1, 0)}
    rows = [line for at, line in enumerate(lines) if at not in heads]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


def _functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
