"""What a page lets its user do: a form with options, the command that does the same, and the call itself."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from google.longrunning.operations_pb2 import Operation
from ostler.client.operations import bare_id
from ostler_common.errors import NotFoundError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ostler_control.cli.app import App
from ostler_control.web import tables
from ostler_control.web.context import Console, command, form_of


@dataclass(frozen=True)
class Option:
    """An option of the command as a field of the form.

    is_flag: a check box, else a text; is_argument: it has no name on the command line, and must be given.
    """

    name: str
    label: str
    is_flag: bool = False
    is_argument: bool = False

    @property
    def flag(self) -> str:
        """How the command line names it: `--with-storage`; "" for an argument."""
        return "" if self.is_argument else f"--{self.name}"


@dataclass(frozen=True)
class Call:
    """A form that was sent. target: id of the object; request_id: makes it idempotent; options: those that were set."""

    target: str
    request_id: str
    options: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.options.get(name, "")

    def flag(self, name: str) -> bool:
        return name in self.options


# Begins it, and answers with its operation; where it is done at once, with the address to go to, None for the object's.
Run = Callable[[App, Call], Operation | str | None]


@dataclass(frozen=True)
class Action:
    """Something that can be done to an object.

    words: of the command, e.g. ("vm", "stop"); label: of the button; question: asked in the form, about {name};
    states: in which it is offered (none: in all); needs: traits that the object must have; fixed: options that it
    always has, as the command line writes them; is_dangerous: whether something is lost by it; admins: whether only
    they may do it.
    """

    name: str
    words: Sequence[str]
    label: str
    question: str
    run: Run
    states: frozenset[str] = frozenset()
    options: Sequence[Option] = ()
    needs: frozenset[str] = frozenset()
    fixed: Sequence[str] = ()
    is_dangerous: bool = False
    admins: bool = False

    def command(self, target: str) -> str:
        """The command without options; form.js adds those that are chosen."""
        return command(*self.words, target, *self.fixed)


@dataclass(frozen=True)
class Button:
    """A link, to an action's form or another page."""

    label: str
    href: str
    is_dangerous: bool = False


@dataclass(frozen=True)
class Target:
    """The object that an action is for. here: its entry of the menu; href: its page; traits: see Action.needs."""

    id: str
    name: str
    kind: str
    state: str
    here: str
    href: str
    traits: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Actions:
    """The actions on objects of one kind, at `PATH/{id}/do/{action}`. find: the object of an id."""

    path: str
    find: Callable[[App, str], Target]
    members: Sequence[Action]

    def buttons(self, console: Console, target: Target) -> list[Button]:
        """What the object's page offers the user."""
        return [
            Button(action.label, f"{self.path}{tables.path(target.id, 'do', action.name)}", action.is_dangerous)
            for action in self.members
            if (not action.states or target.state in action.states)
            and action.needs <= target.traits
            and (console.is_admin or not action.admins)
        ]

    def form(self, console: Console, request: Request) -> Response:
        """The page that asks."""
        action = self._action(request)
        target = self.find(console.app, request.path_params["id"])
        return console.render(
            request,
            "action.html",
            title=f"{action.label}: {target.name}",
            here=target.here,
            target=target,
            action=action,
            question=action.question.format(name=target.name),
            command=action.command(target.name),
            request_id=str(uuid.uuid4()),
        )

    def perform(self, console: Console, request: Request) -> Response:
        """What the form's button does: leads to the operation, or back to the object."""
        action, id_, form = self._action(request), request.path_params["id"], form_of(request)
        known = {option.name for option in action.options}
        options = {name: value.strip() for name, value in form.items() if name in known and value.strip()}
        # Nothing is asked about the object before: of a form that is sent twice, the first may have deleted it.
        done = action.run(console.app, Call(id_, form.get("request_id", ""), options))
        if isinstance(done, Operation):
            done = tables.path("operations", bare_id(done.name))
        return RedirectResponse(done or self.find(console.app, id_).href, 303)

    def _action(self, request: Request) -> Action:
        name = request.path_params["action"]
        found = next((action for action in self.members if action.name == name), None)
        if found is None:
            raise NotFoundError("there is no such page", "PAGE_NOT_FOUND")
        return found
