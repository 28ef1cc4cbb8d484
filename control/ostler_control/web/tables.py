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

GOOD = frozenset({"up", "running", "succeeded", "completed", "done", "ready", "imported"})
MAX_LINE = 40  # characters of a cell
PAGE_SIZE = 100
MAX_DIGITS = 8  # of a row's number
BAD = frozenset({"failed", "disconnected", "fenced", "crashed", "no-go", "error"})


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
class Meter:
    """How full something is. share: 1.0 is all of it; it may be more, with overcommit."""

    name: str
    share: float
    text: str

    @property
    def percent(self) -> int:
        return round(self.share * 100)


@dataclass(frozen=True)
class Filter:
    """A field that narrows a list.

    choices: the values there are; none: any text. is_flag: the command line has an option for each value.
    """

    name: str
    label: str
    value: str
    choices: Sequence[str] = ()
    is_flag: bool = False

    def words(self) -> list[str]:
        """The same as an option of the command line; nothing where it is not set."""
        if not self.value:
            return []
        return [f"--{self.value}"] if self.is_flag else [f"--{self.name}", self.value]


class Filters:
    """The filters of a list's address, and its page.

    texts: name and label of fields for any text; choices: the values of the others, whose label is their name, any text
    where there are none; flags: names of those that are flags on the command line.
    """

    def __init__(
        self, request: Request, *texts: tuple[str, str], flags: Sequence[str] = (), **choices: Sequence[str]
    ) -> None:
        given = request.query_params
        self._path = request.url.path
        self.page = given.get("page", "")
        self.fields = [
            *(
                Filter(
                    name,
                    name.capitalize(),
                    given.get(name, "").strip() if not values or given.get(name) in values else "",
                    values,
                    name in flags,
                )
                for name, values in choices.items()
            ),
            *(Filter(name, label, given.get(name, "").strip()) for name, label in texts),
        ]

    def __getitem__(self, name: str) -> str:
        return next(one.value for one in self.fields if one.name == name)

    def next(self, token: str) -> str:
        """The address of the next page; "" when there is none."""
        values = {one.name: one.value for one in self.fields}
        return address(self._path, {**values, "page": token}) if token else ""

    def words(self) -> list[str]:
        """The same as options of the command line."""
        return [word for one in self.fields for word in one.words()]


def path(*parts: str) -> str:
    """An address of ours; the parts may be anything."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def address(base: str, values: dict[str, str]) -> str:
    """An address with a query; empty values are left out."""
    return f"{base}?{urlencode({name: value for name, value in values.items() if value})}"


def cut(page: str, items: Sequence[T]) -> tuple[Sequence[T], str]:
    """A page of a list that came whole, and the token of the next one."""
    begin = int(page) if page.isascii() and page.isdigit() and len(page) < MAX_DIGITS else 0
    end = begin + PAGE_SIZE
    return items[begin:end], str(end) if end < len(items) else ""


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
        target = href(item) if href else ""
        first = Cell(cells[0], target, "" if target else tone(cells[0]))
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
