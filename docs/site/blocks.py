"""Command blocks of pages, and the marks before them that say what runs them, or why nothing does.

A mark is an HTML comment on the line before the block: `<!-- run by tests/... -->` or `<!-- not run: why -->`. A page
whose blocks a test reads from the page itself says so once: `<!-- blocks run by tests/... -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^ *```(\w*)")
_SHELLS = frozenset(("sh", "bash", "console", "shell"))
_MARK = re.compile(r"<!-- (?:run by (?P<test>tests/\S+)|not run: (?P<reason>\S[^>]{9,})) -->")
_PAGE_MARK = re.compile(r"^<!-- blocks run by (tests/\S+) -->$", re.M)


@dataclass(frozen=True)
class Block:
    """line: where its fence opens, from 1; run_by: the test that runs it; not_run: why none does."""

    line: int
    script: str
    run_by: str = ""
    not_run: str = ""

    @property
    def is_marked(self) -> bool:
        return bool(self.run_by or self.not_run)


def blocks(markdown: str) -> Iterator[Block]:
    """The command blocks of a page, in order."""
    whole_page = _PAGE_MARK.search(markdown)
    by_default = whole_page[1] if whole_page else ""
    lines = markdown.splitlines()
    language: str | None = None  # of the fenced block that the line is in
    start = 0
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if language is None:
            language, start = fence[1], number
            continue
        if language in _SHELLS:
            mark = _MARK.fullmatch(lines[start - 1].strip()) if start else None
            test, reason = (mark["test"] or "", mark["reason"] or "") if mark else (by_default, "")
            yield Block(start + 1, "\n".join(lines[start + 1 : number]), test, reason)
        language = None
