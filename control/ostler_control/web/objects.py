"""Pages of one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.output import View
from ostler_control.web import tables
from ostler_control.web.actions import Target
from ostler_control.web.context import Console, command
from ostler_control.web.forms import Button
from ostler_control.web.tables import Meter, Table

T = TypeVar("T")


def render_object(
    console: Console,
    request: Request,
    target: Target,
    words: Sequence[str],
    view: View[T],
    item: T,
    *,
    notice: str = "",
    meters: Sequence[Meter] = (),
    buttons: Sequence[Button] = (),
    links: Sequence[tuple[str, str]] = (),
    more: Sequence[Table] = (),
) -> Response:
    """The page of an object: all that the command line's `show` prints, and more tables below.

    words: of the command that prints it; notice: what needs attention; links: text and address.
    """
    return console.render(
        request,
        "object.html",
        title=target.name,
        kind=target.kind,
        here=target.here,
        command=command(*words),
        state=target.state,
        tone=tables.tone(target.state),
        notice=notice,
        meters=meters,
        buttons=buttons,
        links=links,
        facts=tables.facts(view, item),
        tables=[*tables.sections(view, item), *more],
    )
