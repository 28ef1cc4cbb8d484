"""Every command block of the documentation is run by a test, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.site.blocks import Block, blocks

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = "```sh\nostler vm list\n```\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page.read_text()):
        assert block.is_marked, f"{page.name}:{block.line}: no `<!-- run by tests/... -->`, no `<!-- not run: why -->`"
        if block.run_by:
            assert (ROOT / block.run_by).is_file(), f"{page.name}:{block.line}: there is no {block.run_by}"


def test_the_pages_have_blocks() -> None:
    assert sum(len(list(blocks(page.read_text()))) for page in PAGES) > 80


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (BLOCK, Block(1, "ostler vm list")),
        ("<!-- run by tests/x.py -->\n" + BLOCK, Block(2, "ostler vm list", run_by="tests/x.py")),
        ("<!-- not run: needs a vCenter -->\n" + BLOCK, Block(2, "ostler vm list", not_run="needs a vCenter")),
        ("<!-- not run: -->\n" + BLOCK, Block(2, "ostler vm list")),
        ("<!-- not run: needs a vCenter -->\n\ntext\n" + BLOCK, Block(4, "ostler vm list")),
        ("<!-- blocks run by tests/x.py -->\n" + BLOCK, Block(2, "ostler vm list", run_by="tests/x.py")),
        ("   <!-- run by tests/x.py -->\n   ```console\n   $ ls\n   ```\n", Block(2, "   $ ls", run_by="tests/x.py")),
        ("```json\n{}\n```\n" + BLOCK, Block(4, "ostler vm list")),
    ],
)
def test_marks_of_a_block(page: str, expected: Block) -> None:
    assert list(blocks(page)) == [expected]
