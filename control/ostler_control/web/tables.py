"""The command line's views of objects as tables of a page: the same columns, the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urlencode

from starlette.requests import Request

from ostler_control.cli.output import View
from ostler_control.cli.text import or_dash

T = TypeVar("T")

GOOD = frozenset({"up", "running", "succeeded", "completed", "done", "ready"})
MAX_LINE = 40  # characters of a cell
PAGE_SIZE = 100
MAX_DIGITS = 8  # of a row's number
BAD = frozenset({"failed", "disconnected", "fenced", "crashed"})


@dataclass(frozen=True)
class Cell:
    """href: where it leads, or ""; tone: "good", "bad" or ""."""

    text: str
    href: str = ""
    tone: str = ""

    @property
    def classes(self) -> str:
        """Short texts stay on one line, so that rows are low on narrow screens; long ones wrap."""
        return f"{self.tone} {'long' if len(self.text) > MAX_LINE else ''}".strip()


@dataclass(frozen=True)
class Table:
    """caption: what a screen reader calls it."""

    caption: str
    titles: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    next: str = ""


@dataclass(frozen=True)
class Filter:
    """A field that narrows a list. choices: the values there are; none: any text."""

    name: str
    label: str
    value: str
    choices: Sequence[str] = ()


def filters(request: Request, *names: str) -> dict[str, str]:
    """The filters of an address."""
    return {name: request.query_params.get(name, "").strip() for name in names}


def path(*parts: str) -> str:
    """An address of ours; the parts may be anything."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def next_page(base: str, filters: dict[str, str], token: str) -> str:
    """The address of a list's next page; "" when there is none."""
    return f"{base}?{urlencode({**{k: v for k, v in filters.items() if v}, 'page': token})}" if token else ""


def cut(request: Request, items: Sequence[T], base: str, filters: dict[str, str]) -> tuple[Sequence[T], str]:
    """A page of a list that came whole, and the address of the next one."""
    number = request.query_params.get("page", "")
    begin = int(number) if number.isascii() and number.isdigit() and len(number) < MAX_DIGITS else 0
    end = begin + PAGE_SIZE
    return items[begin:end], next_page(base, filters, str(end) if end < len(items) else "")


def options(filters: dict[str, str]) -> list[str]:
    """The same filters as options of the command line."""
    return [word for name, value in filters.items() if value for word in (f"--{name}", value)]


def table(
    view: View[T],
    items: Iterable[T],
    caption: str,
    href: Callable[[T], str] | None = None,
    next: str = "",
) -> Table:
    """A row per object; the first column leads to its page."""
    rows = []
    for item in items:
        cells = [or_dash(cell(item)) for _, cell in view.columns]
        first = Cell(cells[0], href(item) if href else "")
        rows.append([first, *(Cell(cell, tone=tone(cell)) for cell in cells[1:])])
    return Table(caption, [title for title, _ in view.columns], rows, next)


def facts(view: View[T], item: T) -> list[tuple[str, str]]:
    """Titles and values of one object, as `show` prints them."""
    shown = {title for title, _ in view.details}
    columns = [*(column for column in view.columns if column[0] not in shown), *view.details]
    return [(title, or_dash(cell(item))) for title, cell in columns]


def sections(view: View[T], item: T) -> list[Table]:
    """The tables below them, those without rows left out."""
    found = []
    for section in view.sections:
        titles, *rows = section.rows(item)
        if rows:
            found.append(Table(section.title, titles, [[Cell(or_dash(c), tone=tone(c)) for c in row] for row in rows]))
    return found


def tone(text: str) -> str:
    """How a state is colored. The word itself stays beside the color."""
    return "good" if text in GOOD else "bad" if text in BAD else ""
