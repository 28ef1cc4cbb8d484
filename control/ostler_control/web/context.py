"""What every page gets: the client of the command line, the templates, and how errors are answered."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import jinja2
from ostler_common.errors import OstlerError
from ostler_common.text import printable
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ostler_control.cli.app import App
from ostler_control.cli.failure import lines
from ostler_control.web.security import CSRF_FIELD, Session

HERE = Path(__file__).parent
# Title and address of each page, in the order of the menu.
MENU = (("Fleet", "/"), ("VMs", "/vms"))

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


def command(*words: str) -> str:
    """The command that does the same, as one would paste it into a shell."""
    return shlex.join(("ostler", *(word for word in words if word)))


@dataclass(frozen=True)
class Console:
    """A running console."""

    app: App
    environment: jinja2.Environment

    @classmethod
    def make(cls, app: App) -> Console:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            # What hosts and guests report must not hide or reorder what stands beside it.
            finalize=lambda value: printable(value) if type(value) is str else value,
        )
        return cls(app, environment)

    def render(self, request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
        """A page. `here` marks its place in the menu; `command` is what does the same on the command line."""
        session: Session = request.scope["state"]["session"]
        base = {"menu": MENU, "here": "", "command": "", "csrf": session.csrf, "csrf_field": CSRF_FIELD}
        text = self.environment.get_template(template).render({**base, **values})
        return HTMLResponse(text, status)

    def failure(self, request: Request, error: OstlerError) -> HTMLResponse:
        """The page of an error: the lines that the command line prints."""
        status = _HTTP.get(error.code, 500)
        return self.render(request, "failure.html", status, title="Failed", lines=lines(error, self.app))
