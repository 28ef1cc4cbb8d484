"""Objects on standard output: tables for people, JSON, YAML and CSV for programs, names for the shell."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import click
from ostler_common.text import printable
from ostler_common.units import parse_size

from ostler_control.cli.table import print_table
from ostler_control.cli.text import NONE, or_dash

if TYPE_CHECKING:
    from google.protobuf.message import Message

T = TypeVar("T")
Column = tuple[str, Callable[[T], str]]

FORMATS = ("table", "json", "yaml", "csv", "name")


def _plain(item: Message) -> object:
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
    plain: Callable[[T], object] = _plain  # type: ignore[assignment]  # most objects are messages


@dataclass(frozen=True)
class Listing:
    """How a list is printed.

    output: one of FORMATS; columns: titles of the columns to print, in order (none: the view's own); sort: the title
    of a column to sort by, with "-" in front for descending order ("": as the server sends them).
    """

    output: str
    columns: Sequence[str] = ()
    sort: str = ""


def print_list(view: View[T], items: Iterable[T], listing: Listing) -> None:
    """Prints objects, one row each. Raises click.UsageError when a column is unknown."""
    columns = [_column(view, title) for title in listing.columns] or list(view.columns)
    if listing.sort:
        items = _sorted(view, items, listing.sort)
    if listing.output == "table":
        rows = [[or_dash(cell(item)) for _, cell in columns] for item in items]
        if not rows:
            click.echo(f"no {view.noun}s", err=True)
            return
        titles = [title for title, _ in columns]
        # A column that is empty in every row is left out, unless the user asked for it.
        used = [index for index in range(len(titles)) if listing.columns or index == 0 or _says(rows, index)]
        print_table([titles[index] for index in used], [[row[index] for index in used] for row in rows])
    elif listing.output == "csv":
        _print_csv([title for title, _ in columns], ([cell(item) for _, cell in columns] for item in items))
    elif listing.output == "name":
        for item in items:
            click.echo(_one_line(view.name(item)))
    else:
        print_data([view.plain(item) for item in items], listing.output)


def _says(rows: Sequence[Sequence[str]], index: int) -> bool:
    return any(row[index] != NONE for row in rows)


def _column(view: View[T], title: str) -> Column[T]:
    columns = {name.replace(" ", "-"): (name, cell) for name, cell in (*view.columns, *view.details)}
    wanted = title.strip().lower().replace(" ", "-")
    if wanted not in columns:
        raise click.UsageError(f"there is no column {title!r}; choose from {', '.join(columns)}")
    return columns[wanted]


def _sorted(view: View[T], items: Iterable[T], sort: str) -> list[T]:
    _, cell = _column(view, sort.removeprefix("-"))
    return sorted(items, key=lambda item: sort_key(cell(item)), reverse=sort.startswith("-"))


def sort_key(cell: str) -> tuple[int, float, str]:
    """Orders cells: sizes and numbers by value, then everything else as text, empty ones last."""
    if cell in ("", NONE):
        return 2, 0.0, ""
    try:
        return 0, float(parse_size(cell)), ""
    except ValueError:
        pass
    try:
        return 0, float(cell.rstrip("%")), ""
    except ValueError:
        return 1, 0.0, cell.casefold()


def _print_csv(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(["" if cell == NONE else printable(cell) for cell in row] for row in rows)
    click.echo(text.getvalue(), nl=False)


def print_one(view: View[T], item: T, output: str) -> None:
    """Prints one object in full."""
    if output == "table":
        shown = {title for title, _ in view.details}
        rows = [[title, or_dash(cell(item))] for title, cell in view.columns if title not in shown]
        rows += [[title, or_dash(cell(item))] for title, cell in view.details]
        print_table(None, rows)
        for section in view.sections:
            header, *body = section.rows(item)
            if body:
                click.echo(f"\n{section.title}:")
                print_table(header, [[or_dash(cell) for cell in row] for row in body])
    elif output == "csv":
        columns = dict((*view.columns, *view.details)).items()
        _print_csv([title for title, _ in columns], [[cell(item) for _, cell in columns]])
    elif output == "name":
        click.echo(_one_line(view.name(item)))
    else:
        print_data(view.plain(item), output)


def print_changed(view: View[T], item: T, output: str) -> None:
    """Prints an object that was changed: in a table, one row is enough."""
    if output == "table":
        print_list(view, [item], Listing(output))
    else:
        print_one(view, item, output)


def print_data(data: object, output: str) -> None:
    """Prints plain data as JSON or YAML."""
    from ostler_control.cli.documents import to_json, to_yaml

    click.echo(to_json(data) + "\n" if output == "json" else to_yaml(data), nl=False)


def _one_line(name: str) -> str:
    return printable(name).replace("\n", " ")
