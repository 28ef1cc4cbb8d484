"""What a page lets its user do with an object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ostler_common.errors import NotFoundError, OstlerError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ostler_control.cli.app import App
from ostler_control.web import tables
from ostler_control.web.context import Console, command, form_of
from ostler_control.web.forms import Button, Option, Run, ask_again, call_of, lead_to, render_form


@dataclass(frozen=True)
class Action:
    """Something that can be done to an object.

    words: of the command, e.g. ("vm", "stop"); label: of the button; question: asked in the form, about {name};
    states: in which it is offered (none: in all); needs: traits that the object must have; fixed: options that it
    always has, as the command line writes them; target_flag: the option that names the object, "" where it is the
    first argument; is_dangerous: whether something is lost by it; admins: whether only they may do it.
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
    target_flag: str = ""
    is_dangerous: bool = False
    admins: bool = False

    def command(self, target: str) -> str:
        """The command without options; form.js adds those that are chosen."""
        return command(*self.words, self.target_flag, target, *self.fixed)


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

    def form(self, console: Console, request: Request, error: OstlerError | None = None) -> Response:
        """The page that asks; again, where that failed with an error."""
        action = self._action(request)
        target = self.find(console.app, request.path_params["id"])
        return render_form(
            console,
            request,
            title=f"{action.label}: {target.name}",
            here=target.here,
            heading=f"{action.label}: {target.kind}",
            back=(target.name, target.href),
            question=action.question.format(name=target.name),
            command=action.command(target.name),
            options=action.options,
            button=Button(action.label, target.href, action.is_dangerous),
            error=error,
        )

    def perform(self, console: Console, request: Request) -> Response:
        """What the form's button does: leads to the operation, or back to the object."""
        action, id_, form = self._action(request), request.path_params["id"], form_of(request)
        # Nothing is asked about the object before: of a form that is sent twice, the first may have deleted it.
        try:
            done = action.run(console.app, call_of(form, id_, action.options))
        except OstlerError as error:
            return ask_again(partial(self.form, console, request, error), error)
        return lead_to(done) or RedirectResponse(self.find(console.app, id_).href, 303)

    def _action(self, request: Request) -> Action:
        name = request.path_params["action"]
        found = next((action for action in self.members if action.name == name), None)
        if found is None:
            raise NotFoundError("there is no such page", "PAGE_NOT_FOUND")
        return found
