"""What a page loads from elsewhere: nothing, so that the site works offline and tells nobody who reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# Attributes that a browser loads by itself. A link that the reader follows is none.
_LOADED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
}
_NOT_LOADED_RELS = frozenset(("canonical", "edit", "next", "prev"))
_ELSEWHERE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_CSS_LOAD = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


def outside_loads(site: Path) -> Iterator[tuple[str, str]]:
    """Page or style sheet, and the address that it loads from elsewhere."""
    for path in sorted(site.rglob("*")):
        name = str(path.relative_to(site))
        if path.suffix == ".html":
            yield from ((name, url) for url in in_html(path.read_text()))
        elif path.suffix == ".css":
            yield from ((name, url) for url in in_css(path.read_text()))


def in_html(text: str) -> list[str]:
    """Addresses elsewhere that a browser loads when it shows the page."""
    parser = _Loads()
    parser.feed(text)
    return parser.found


def in_css(text: str) -> list[str]:
    """Addresses elsewhere that a style sheet loads."""
    return _CSS_LOAD.findall(text)


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "link" and set(values.get("rel", "").split()) <= _NOT_LOADED_RELS:
            return
        self.found += [
            url
            for name in _LOADED.get(tag, ())
            for url in values.get(name, "").replace(",", " ").split()
            if _ELSEWHERE.match(url)
        ]
        self.found += in_css(values.get("style", ""))
