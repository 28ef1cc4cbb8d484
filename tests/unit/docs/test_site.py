"""What the site shows otherwise than the source tree."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from docs.site.hooks import for_site
from docs.site.offline import in_css, in_html

ROOT = Path(__file__).parents[3]


def test_files_of_the_source_tree_become_text() -> None:
    assert for_site("See [base.py](../agent/base.py) and [the example](../examples/go).\n") == (
        "See `agent/base.py` and the example (`examples/go`).\n"
    )


def test_links_between_pages_stay() -> None:
    assert for_site("See [DRS](drs.md#cost).\n") == "See [DRS](drs.md#cost).\n"


def test_what_belongs_to_an_item_of_a_list_is_indented_by_four() -> None:
    page = "1. Do:\n\n   ```sh\n   for x in 1; do\n     echo\n   done\n   ```\n\n   Then.\n- a\n  - b\n"
    assert for_site(page) == (
        "1. Do:\n\n    ```sh\n    for x in 1; do\n      echo\n    done\n    ```\n\n    Then.\n- a\n    - b\n"
    )


def test_fenced_blocks_stay_as_they_are() -> None:
    page = "```yaml\na:\n  - b\n   c\n```\n"
    assert for_site(page) == page


def test_fonts_come_from_the_reader_s_system() -> None:
    theme = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["theme"]
    assert theme["font"] is False


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<script src="https://cdn.example/a.js"></script>', ["https://cdn.example/a.js"]),
        ('<link rel="stylesheet" href="//fonts.example/css">', ["//fonts.example/css"]),
        ('<img srcset="a.png 1x, http://img.example/b.png 2x">', ["http://img.example/b.png"]),
        ('<p style="background: url(https://img.example/c.png)">', ["https://img.example/c.png"]),
        ('<script src="../assets/a.js"></script><a href="https://libvirt.org">libvirt</a>', []),
        ('<link rel="canonical" href="https://docs.example/">', []),
    ],
)
def test_loads_from_elsewhere_are_found(html: str, expected: list[str]) -> None:
    assert in_html(html) == expected


def test_loads_of_style_sheets_are_found() -> None:
    assert in_css("@import 'https://fonts.example/a.css'; p { background: url(data:image/svg+xml,<svg/>) }") == [
        "https://fonts.example/a.css"
    ]
