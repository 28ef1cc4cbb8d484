"""Objects on standard output: tables for people, JSON and YAML for programs, names for the shell."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import click

from ostler_control.cli.text import NONE, or_dash, printable

T = TypeVar("T")
Column = tuple[str, Callable[[T], str]]

NARROW = 9  # columns up to this width are never folded: sizes, states, counts
GAP = 2
LEAST = 6  # and the others are folded down to this, or to their title
FORMATS = ("table", "json", "yaml", "name")
_STYLES = {
    "green": {"running", "up", "ready", "succeeded", "yes", "completed", "done"},
    "red": {"failed", "disconnected", "crashed", "partial"},
    "yellow": {
        "connecting",
        "creating",
        "starting",
        "stopping",
        "migrating",
        "deleting",
        "maintenance",
        "cancelled",
        "under review",
        "in progress",
        "skipped",
        "expired",
    },
}
_STYLE_OF = {word: style for style, words in _STYLES.items() for word in words}


def _plain(item: Any) -> Any:
    from ostler_control.cli.plain import to_plain

    return to_plain(item)


@dataclass(frozen=True)
class Section(Generic[T]):
    """A table within the view of one object: its title and its rows, the first being the headers."""

    title: str
    rows: Callable[[T], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class View(Generic[T]):
    """How objects of one kind are shown.

    columns: of a list; details: the rows of one object, as well as the columns; sections: tables below them.
    """

    noun: str
    columns: Sequence[Column[T]]
    details: Sequence[Column[T]] = ()
    sections: Sequence[Section[T]] = ()
    name: Callable[[T], str] = lambda item: item.name  # type: ignore[attr-defined]  # most have one
    plain: Callable[[T], Any] = _plain


def print_list(view: View[T], items: Iterable[T], output: str) -> None:
    """Prints objects, one row each."""
    if output == "table":
        rows = [[or_dash(cell(item)) for _, cell in view.columns] for item in items]
        if rows:
            titles = [title for title, _ in view.columns]
            # A column that says nothing about any row only takes the others' place.
            used = [index for index in range(len(titles)) if index == 0 or any(row[index] != NONE for row in rows)]
            _print_table([titles[index] for index in used], [[row[index] for index in used] for row in rows])
        else:
            click.echo(f"no {view.noun}s", err=True)
    elif output == "name":
        for item in items:
            click.echo(view.name(item))
    else:
        print_data([view.plain(item) for item in items], output)


def print_one(view: View[T], item: T, output: str) -> None:
    """Prints one object in full."""
    if output == "table":
        shown = {title for title, _ in view.details}
        rows = [[title, or_dash(cell(item))] for title, cell in view.columns if title not in shown]
        rows += [[title, or_dash(cell(item))] for title, cell in view.details]
        _print_table(None, rows)
        for section in view.sections:
            header, *body = section.rows(item)
            if body:
                click.echo(f"\n{section.title}:")
                _print_table(header, [[or_dash(cell) for cell in row] for row in body])
    elif output == "name":
        click.echo(view.name(item))
    else:
        print_data(view.plain(item), output)


def print_changed(view: View[T], item: T, output: str) -> None:
    """Prints an object that was changed: in a table, one row is enough."""
    if output == "table":
        print_list(view, [item], output)
    else:
        print_one(view, item, output)


def print_data(data: Any, output: str) -> None:
    """Prints plain data as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        import yaml

        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)


def _print_table(header: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    """Columns in line, folded to the terminal's width (80 where there is none): nothing is cut off."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    titles = [title.upper() for title in header or ("", "")]
    console = Console(file=sys.stdout, highlight=False)
    widths = column_widths(titles, rows, console.width)
    console.width = max(console.width, sum(widths) + GAP * len(widths))
    table = Table(box=None, show_header=header is not None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
    for index, (title, width) in enumerate(zip(titles, widths, strict=True)):
        table.add_column(title, overflow="fold", width=width, style="bold" if header is None and index == 0 else None)
    for row in rows:
        table.add_row(*(Text(printable(cell), style=_STYLE_OF.get(cell, "")) for cell in row))
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def column_widths(titles: Sequence[str], rows: Sequence[Sequence[str]], available: int) -> list[int]:
    """Widths that fit into `available` together: what each needs, or less for the widest ones, down to their longest
    word, and if that is not enough, to LEAST. Narrow columns and the first (names) keep what they need. They may not
    fit even so."""
    columns = list(zip(titles, zip(*rows, strict=True), strict=True))
    widths = [max(len(title), *map(len, cells)) for title, cells in columns]
    words = [max(len(word) for text in (title, *cells) for word in text.split(" ")) for title, cells in columns]
    least = [max(len(title), LEAST) for title in titles]
    for floors in (words, least):
        floors = [
            width if index == 0 or width <= NARROW else floor
            for index, (width, floor) in enumerate(zip(widths, floors, strict=True))
        ]
        while sum(widths) + GAP * (len(widths) - 1) > available:
            wide = [index for index, width in enumerate(widths) if width > floors[index]]
            if not wide:
                break
            widths[max(wide, key=lambda index: widths[index])] -= 1
    return widths
