"""What the site shows otherwise than the source tree."""

from __future__ import annotations

from pathlib import Path

import yaml

from docsite.hooks import for_site

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


def test_the_site_loads_nothing_from_elsewhere() -> None:
    theme = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["theme"]
    assert theme["font"] is False
