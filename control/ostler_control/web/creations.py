"""What makes a new object: a form of its own, and the call that it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ostler_common.errors import InvalidArgumentError, OstlerError
from ostler_common.units import parse_size
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ostler_control.cli.app import App
from ostler_control.cli.options import MAX_SIZE_BYTES
from ostler_control.web import tables
from ostler_control.web.context import Console, command, form_of
from ostler_control.web.forms import Button, Call, Option, Run, ask_again, call_of, lead_to, render_form

# Names that a field suggests, by the field's name.
Suggestions = Mapping[str, Sequence[str]]


def _nothing(_: App) -> Suggestions:
    return {}


@dataclass(frozen=True)
class Creation:
    """A form at `/new/NAME`.

    words: of the command, e.g. ("vm", "create"); label: of the button, and the form's title; question: what the form
    says first; here: the page that leads to it; suggest: asks the control plane; admins: whether only they may do it.
    """

    name: str
    words: Sequence[str]
    label: str
    question: str
    here: str
    run: Run
    options: Sequence[Option] = ()
    suggest: Callable[[App], Suggestions] = _nothing
    admins: bool = False

    @property
    def path(self) -> str:
        return tables.path("new", self.name)

    def buttons(self, console: Console) -> list[Button]:
        """What the page that leads here offers the user."""
        return [] if self.admins and not console.is_admin else [Button(self.label, self.path)]

    def form(self, console: Console, request: Request, error: OstlerError | None = None) -> Response:
        """The page that asks; again, where that failed with an error."""
        known = self.suggest(console.app)
        options = [
            replace(option, suggestions=known.get(option.name, ()))
            for option in self.options
            if console.is_admin or not option.admins
        ]
        return render_form(
            console,
            request,
            title=self.label,
            here=self.here,
            heading=self.label,
            question=self.question,
            command=command(*self.words),
            options=options,
            button=Button(self.label, self.here),
            error=error,
        )

    def perform(self, console: Console, request: Request) -> Response:
        """What the form's button does: leads to the operation."""
        try:
            done = self.run(console.app, call_of(form_of(request), "", self.options))
        except OstlerError as error:
            return ask_again(partial(self.form, console, request, error), error)
        return lead_to(done) or RedirectResponse(self.here, 303)


def size_of(call: Call, option: str) -> int:
    """A field with a size, bytes; 0 where it is empty. Raises InvalidArgumentError (BAD_SIZE)."""
    given = call.text(option)
    try:
        size_bytes = parse_size(given) if given else 0
    except (ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"{option}: {error}", "BAD_SIZE") from None
    if size_bytes > MAX_SIZE_BYTES:
        raise InvalidArgumentError(f"{option}: it must be less than 8 EiB", "BAD_SIZE")
    return size_bytes
