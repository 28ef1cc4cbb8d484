"""What every page gets: the client of the command line, the templates, and how errors are answered."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from ostler.control.v1.account_pb2 import User, WhoAmIRequest
from ostler_common.errors import OstlerError
from ostler_common.text import printable
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ostler_control.cli.app import App
from ostler_control.cli.failure import lines
from ostler_control.web.changes import Changes
from ostler_control.web.security import CSRF_FIELD, Session

HERE = Path(__file__).parent
# Request header of a browser that wants to follow a page, see `live`.
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class Entry:
    """An entry of the menu. admins: whether only they may see the page."""

    title: str
    href: str
    admins: bool = False


MENU = (
    Entry("Fleet", "/", admins=True),
    Entry("VMs", "/vms"),
    Entry("Volumes", "/volumes"),
    Entry("Backups", "/backups"),
    Entry("DRS", "/drs", admins=True),
    Entry("Imports", "/imports", admins=True),
    Entry("Catalog", "/catalog"),
    Entry("Keys", "/keys", admins=True),
    Entry("Settings", "/settings", admins=True),
    Entry("Operations", "/operations"),
    Entry("Events", "/events"),
)

_HTTP = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 403,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def status_of(error: OstlerError) -> int:
    """The status of an answer that is an error."""
    return _HTTP.get(error.code, 500)


def command(*words: str) -> str:
    """The command that does the same, as one would paste it into a shell."""
    return shlex.join(("ostler", *(word for word in words if word)))


def is_followed(request: Request) -> bool:
    """Whether the page is asked for by who follows it, see `live`."""
    return request.headers.get("accept") == EVENT_STREAM


def form_of(request: Request) -> dict[str, str]:
    """The form that the gate has read; empty for a GET."""
    form: dict[str, str] = request.scope["state"].get("form", {})
    return form


class HtmlPage(HTMLResponse):
    """is_moving: whether it shows something that moves without events, such as an operation's progress."""

    is_moving = False


@dataclass
class Console:
    """A running console."""

    app: App
    environment: jinja2.Environment
    is_stopping: Callable[[], bool]
    changes: Changes
    _role: list[int] = field(default_factory=list)

    @classmethod
    def make(cls, app: App, is_stopping: Callable[[], bool] = lambda: False) -> Console:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            # What hosts and guests report must not hide or reorder what stands beside it.
            finalize=lambda value: printable(value) if type(value) is str else value,
        )
        # A global, because a block that is rendered alone has no imports of its template.
        environment.globals["ui"] = environment.get_template("parts.html").module
        return cls(app, environment, is_stopping, Changes(lambda request: app.client.events.WatchEvents(request)))

    @property
    def is_admin(self) -> bool:
        """Whether the profile is an admin's. Asked once."""
        if not self._role:
            self._role.append(self.app.client.users.WhoAmI(WhoAmIRequest()).role)
        return self._role[0] == User.ADMIN

    def render(
        self, request: Request, template: str, status: int = 200, *, is_moving: bool = False, **values: object
    ) -> HtmlPage:
        """A page, or only its block `live` for who follows it. is_moving: see HtmlPage.

        `here` marks its place in the menu; `command` is what does the same on the command line.
        """
        session: Session = request.scope["state"]["session"]
        base = {
            "here": "",
            "command": "",
            "csrf": session.csrf,
            "csrf_field": CSRF_FIELD,
            "nonce": request.scope["state"]["nonce"],
        }
        found = self.environment.get_template(template)
        if is_followed(request):
            live = found.blocks["live"](found.new_context({**base, **values}))
            page = HtmlPage("".join(live), status)
            page.is_moving = is_moving
            return page
        return HtmlPage(found.render({"menu": self._menu(), **base, **values}), status)

    def _menu(self) -> Sequence[Entry]:
        try:
            return MENU if self.is_admin else [entry for entry in MENU if not entry.admins]
        except OstlerError:  # the page itself says that the control plane is away
            return MENU

    def failure(self, request: Request, error: OstlerError) -> HTMLResponse:
        """The page of an error: the lines that the command line prints."""
        return self.render(request, "failure.html", status_of(error), title="Failed", lines=lines(error, self.app))
