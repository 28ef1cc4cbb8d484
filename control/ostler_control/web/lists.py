"""Pages that are a list with filters."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from ostler_control.web.context import Console, command
from ostler_control.web.forms import Button
from ostler_control.web.tables import Filters, Table


def render_list(
    console: Console,
    request: Request,
    words: Sequence[str],
    filters: Filters,
    table: Table,
    note: str = "",
    buttons: Sequence[Button] = (),
    is_moving: bool = False,
) -> Response:
    """The page of a list at its own address, which is in the menu.

    words: of the command that prints it; the filters that are set are its options. note: a sentence above the table;
    is_moving: see `HtmlPage`.
    """
    return console.render(
        request,
        "list.html",
        is_moving=is_moving,
        title=table.caption,
        here=request.url.path,
        command=command(*words, *filters.words()),
        filters=filters.fields,
        note=note,
        buttons=buttons,
        table=table,
    )
