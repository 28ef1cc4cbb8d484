"""Hooks of MkDocs: the pages that are made from the code, and what the site shows otherwise than the source tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.site import api_page, cli_page, offline, reason_page

GENERATED = {
    "reference/commands.md": cli_page.page,
    "reference/protos.md": api_page.page,
    "reference/reasons.md": reason_page.page,
}
STYLE = Path(__file__).with_name("site.css")
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code, and to the navigation the pages that it leaves out."""
    for name, page in GENERATED.items():
        files.append(File.generated(config, name, content=page()))
    files.append(File.generated(config, STYLE.name, content=STYLE.read_text()))
    shown = set(_pages_of(config.nav or []))
    absent = sorted(file.src_uri for file in files.documentation_pages() if file.src_uri not in shown)
    if absent and config.nav is not None:
        config.nav.append({"More": absent})
    return files


def _pages_of(nav: object) -> Iterator[str]:
    """The files that a navigation names, at any depth."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, list):
        for entry in nav:
            yield from _pages_of(entry)
    elif isinstance(nav, dict):
        for entry in nav.values():
            yield from _pages_of(entry)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page as Python-Markdown wants it."""
    return markdown if page.file.src_uri in GENERATED else for_site(markdown)


def for_site(markdown: str) -> str:
    """Files of the source tree become plain text, because the site does not have them. What belongs to an item of a
    list is indented by four spaces, which Python-Markdown wants, where two or three do on other sites."""
    return "\n".join(_indented(_OUTSIDE.sub(_without_link, markdown).splitlines())) + "\n"


def _without_link(match: re.Match[str]) -> str:
    text, path = match[1], match[2]
    return f"`{path}`" if text.strip("`") in (path, Path(path).name) else f"{text} (`{path}`)"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    fence: int | None = None  # the indentation of the fenced block that the line is in
    for line in lines:
        indent = len(line) - len(line.lstrip())
        is_fence = line.lstrip().startswith("```")
        shift = 4 - (indent if fence is None else fence)
        if shift in (1, 2) and line.strip():
            yield " " * shift + line
        else:
            yield line
        if is_fence:
            fence = indent if fence is None else None


def on_post_build(config: MkDocsConfig) -> None:
    """Raises PluginError when a page loads something from elsewhere."""
    if loads := sorted(set(offline.outside_loads(Path(config.site_dir)))):
        raise PluginError("the site loads from elsewhere: " + ", ".join(f"{page}: {url}" for page, url in loads))
