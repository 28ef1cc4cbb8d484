"""Forms: their fields, the command that does the same, and the call that was sent."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from google.longrunning.operations_pb2 import Operation
from ostler.client.operations import bare_id
from ostler_common.errors import InvalidArgumentError, OstlerError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ostler_control.cli.app import App
from ostler_control.cli.failure import lines
from ostler_control.web import tables
from ostler_control.web.context import Console, form_of, status_of

# After these nobody knows whether it was begun; the same request id finds out.
_UNCERTAIN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})


@dataclass(frozen=True)
class Option:
    """An option of the command as a field of the form.

    is_flag: a check box, else a text; is_argument: it has no name on the command line, and must be given; is_required:
    so must this one; is_list: several words, separated by spaces; admins: whether only they may set it; suggestions:
    values that the form offers, beside any other.
    """

    name: str
    label: str
    is_flag: bool = False
    is_argument: bool = False
    is_required: bool = False
    is_list: bool = False
    admins: bool = False
    suggestions: Sequence[str] = ()

    @property
    def flag(self) -> str:
        """How the command line names it: `--with-storage`; "" for an argument."""
        return "" if self.is_argument else f"--{self.name}"


@dataclass(frozen=True)
class Call:
    """A form that was sent.

    target: id of the object, "" for a new one; request_id: makes it idempotent; options: those that were set.
    """

    target: str
    request_id: str
    options: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.options.get(name, "")

    def flag(self, name: str) -> bool:
        return name in self.options

    def number(self, name: str) -> int:
        """A whole number. Raises InvalidArgumentError (BAD_NUMBER)."""
        given = self.text(name)
        if not (given.isascii() and given.isdigit() and len(given) <= tables.MAX_DIGITS):
            raise InvalidArgumentError(f"{name}: {given} is not a whole number", "BAD_NUMBER")
        return int(given)


# Begins it, and answers with its operation; where it is done at once, with the address to go to, None for the object's.
Run = Callable[[App, Call], Operation | str | None]


@dataclass(frozen=True)
class Button:
    """A link, to an action's form or another page."""

    label: str
    href: str
    is_dangerous: bool = False


def render_form(
    console: Console,
    request: Request,
    *,
    title: str,
    here: str,
    heading: str,
    question: str,
    command: str,
    options: Sequence[Option],
    button: Button,
    back: tuple[str, str] | None = None,
    error: OstlerError | None = None,
) -> Response:
    """The page that asks.

    back: name and address of the object; button: what sends the form; its address is for those who do not want to;
    error: what the form that was sent failed with. It is shown with all that was filled in.
    """
    given = form_of(request)
    keeps_id = error is not None and error.code in _UNCERTAIN
    return console.render(
        request,
        "action.html",
        status_of(error) if error else 200,
        title=title,
        here=here,
        heading=heading,
        back=back,
        question=question,
        command=command,
        options=options,
        button=button,
        given=given,
        failure=lines(error, console.app) if error else (),
        request_id=given.get("request_id", "") if keeps_id else str(uuid.uuid4()),
    )


def call_of(form: Mapping[str, str], target: str, options: Sequence[Option]) -> Call:
    """A form that was sent, with those fields that are known and set."""
    known = {option.name for option in options}
    given = {name: value.strip() for name, value in form.items() if name in known and value.strip()}
    return Call(target, form.get("request_id", ""), given)


def lead_to(done: Operation | str | None) -> Response | None:
    """To the operation, or to the address that an action answered with."""
    if isinstance(done, Operation):
        done = tables.path("operations", bare_id(done.name))
    return RedirectResponse(done, 303) if done else None


def ask_again(form: Callable[[], Response], error: OstlerError) -> Response:
    """The form with its error, or the page of the error where the form cannot be shown either."""
    try:
        return form()
    except OstlerError:
        raise error from None
