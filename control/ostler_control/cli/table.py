"""Tables on standard output: columns in line, wrapped to the terminal, never wrapped in a pipe or a file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence

import click
from ostler_common.text import printable

MAX_UNFOLDED = 9  # columns up to this width are never wrapped: sizes, states, counts
GAP = 2
MIN_WIDTH = 6  # the others are wrapped down to this, or to their title

_STYLES = {
    "green": {"running", "up", "ready", "succeeded", "yes", "completed", "done"},
    "red": {"failed", "disconnected", "fenced", "crashed", "partial"},
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
_STYLE_OF: Mapping[str, str] = {word: style for style, words in _STYLES.items() for word in words}


def print_table(header: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    """Prints rows in columns. On a terminal the widest columns wrap at words; elsewhere each row is one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    titles = [title.upper() for title in header or ("", "")]
    console = Console(file=sys.stdout, highlight=False)
    available = terminal_width()
    if available is not None:
        widths = column_widths(titles, rows, available)
    else:
        rows = [[cell.replace("\n", " ") for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
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


def terminal_width() -> int | None:
    """Characters per line of the terminal; None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def column_widths(titles: Sequence[str], rows: Sequence[Sequence[str]], available: int) -> list[int]:
    """Widths in characters that fit into `available` together: what each column needs, or less for the widest ones.

    Those shrink down to their longest word and, if that is not enough, to MIN_WIDTH. Narrow columns and the first one
    (names) keep what they need, so the widths may not fit even so.
    """
    columns = list(zip(titles, zip(*rows, strict=True), strict=True))
    widths = [max(len(title), *map(len, cells)) for title, cells in columns]
    words = [max(len(word) for text in (title, *cells) for word in text.split(" ")) for title, cells in columns]
    minimums = [max(len(title), MIN_WIDTH) for title in titles]
    for floors in (words, minimums):
        floors = [
            width if index == 0 or width <= MAX_UNFOLDED else floor
            for index, (width, floor) in enumerate(zip(widths, floors, strict=True))
        ]
        while sum(widths) + GAP * (len(widths) - 1) > available:
            wide = [index for index, width in enumerate(widths) if width > floors[index]]
            if not wide:
                break
            widths[max(wide, key=lambda index: widths[index])] -= 1
    return widths
