"""What stands before every page: who may come in, and what a browser may do with what it gets.

The console acts with its user's certificate, so whoever gets in is that user. Other users of the machine can connect to
the port, and any site that the user visits can make the browser send requests to it. Against them:

- A link with a random token, which works once, is exchanged for a cookie (HttpOnly, SameSite=Strict).
- The Host header must name loopback and our port, which a name that was rebound to 127.0.0.1 does not.
- A request that changes something, and a WebSocket, must have our Origin; a change also the session's CSRF token.
- Responses allow no inline script or style, no outside resource and no frame.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENTRANCE = "/enter"
CSRF_FIELD = "csrf"
CSRF_HEADER = "x-csrf-token"
MAX_BODY_BYTES = 64 << 10
MAX_FIELDS = 100
_SAFE = ("GET", "HEAD")

_CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'nonce-{nonce}'",
        # noVNC draws the guest's pointer, and parts of its screen, as images of its own.
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
# Of every response. {nonce}: changes with each of them; the terminal makes its style sheets with it.
HEADERS = {
    "content-security-policy": _CSP,
    # Not no-referrer, with which browsers send forms with `Origin: null`.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Session:
    """A browser that came in by a link. The values are secret and never shown by repr."""

    cookie: str = field(default_factory=secrets.token_urlsafe, repr=False)
    csrf: str = field(default_factory=secrets.token_urlsafe, repr=False)


class Sessions:
    """Links and the sessions that they were exchanged for. Safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token: str | None = None
        self._sessions: list[Session] = []

    def new_token(self) -> str:
        """The token of a new link. It works once; the link before it does not work any more."""
        with self._lock:
            self._token = secrets.token_urlsafe()
            return self._token

    def exchange(self, token: str) -> Session | None:
        """A session for the token of the present link, None for any other."""
        with self._lock:
            if self._token is None or not _same(self._token, token):
                return None
            self._token = None
            session = Session()
            self._sessions.append(session)
            return session

    def find(self, cookie: str) -> Session | None:
        """The session with this cookie."""
        with self._lock:
            return next((session for session in self._sessions if _same(session.cookie, cookie)), None)


class Gate:
    """ASGI middleware: lets in the requests of sessions, and adds the headers to every response.

    In the scope of what it lets in, `state` has the session, the nonce of styles, and of a POST the form as
    `dict[str, str]`.
    entered: called when a link was used.
    """

    def __init__(self, app: ASGIApp, port: int, sessions: Sessions, entered: Callable[[], None]) -> None:
        self._app = app
        self._sessions = sessions
        self._entered = entered
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        # Cookies are shared by all ports of a host; two consoles must not overwrite each other's.
        self.cookie_name = f"ostler-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        is_http = scope["type"] == "http"
        nonce = secrets.token_urlsafe()
        scope.setdefault("state", {})["nonce"] = nonce
        if is_http:
            send = _with_headers(send, nonce)
        answer = self._refusal(scope)
        if answer is None and is_http and scope["method"] not in _SAFE:
            body = await _read(receive)
            answer = self._read_form(scope, body)
            receive = _replay(body or b"")
        if answer is None:
            await self._app(scope, receive, send)
        elif is_http:
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope) -> Response | None:
        """What to answer instead of the page; None where the request may go on."""
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _no(403, "WRONG_HOST", "this console answers on loopback only, at the address that it printed")
        is_change = scope["type"] == "websocket" or scope["method"] not in _SAFE
        if (is_change or origins) and origins != [f"http://{hosts[0].lower()}"]:
            return _no(403, "WRONG_ORIGIN", "the request comes from another site")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and (
            is_change or headers.get("sec-fetch-mode") != "navigate"
        ):
            return _no(403, "WRONG_ORIGIN", "the request comes from another site")
        if scope["type"] == "http" and scope["path"] == ENTRANCE and scope["method"] == "GET":
            return self._enter(scope)
        session = self._sessions.find(HTTPConnection(scope).cookies.get(self.cookie_name, ""))
        if session is None:
            return _no(401, "NO_SESSION", "open the link that `ostler web` printed; each link works once")
        scope["state"]["session"] = session
        return None

    def _enter(self, scope: Scope) -> Response:
        session = self._sessions.exchange(HTTPConnection(scope).query_params.get("token", ""))
        if session is None:
            return _no(401, "BAD_LINK", "this link was used before or is not the last one that `ostler web` printed")
        self._entered()
        response = RedirectResponse("/", 303)
        response.set_cookie(self.cookie_name, session.cookie, httponly=True, samesite="strict", path="/")
        return response

    def _read_form(self, scope: Scope, body: bytes | None) -> Response | None:
        """Puts the form into the scope, or answers why not."""
        if body is None:
            return _no(413, "REQUEST_TOO_LARGE", f"a request has at most {MAX_BODY_BYTES} bytes")
        headers = Headers(scope=scope)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and kind != "application/x-www-form-urlencoded":
            return _no(415, "WRONG_CONTENT_TYPE", "forms are sent as application/x-www-form-urlencoded")
        try:
            values = parse_qs(
                body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=MAX_FIELDS
            )
        except ValueError:
            return _no(400, "BAD_FORM", "the form cannot be read")
        form = {name: found[-1] for name, found in values.items()}
        given = headers.get(CSRF_HEADER) or form.pop(CSRF_FIELD, "")
        session: Session = scope["state"]["session"]
        if not _same(session.csrf, given):
            return _no(403, "BAD_CSRF_TOKEN", "the form is not of this session: reload the page and try again")
        scope["state"]["form"] = form
        return None


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


def _no(status: int, reason: str, message: str) -> Response:
    return PlainTextResponse(f"{message} [{reason}]\n", status)


def _with_headers(send: Send, nonce: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value.format(nonce=nonce)
        await send(message)

    return sending


async def _read(receive: Receive) -> bytes | None:
    """The body; None when it is larger than it may be."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes) -> Receive:
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return parts.pop() if parts else {"type": "http.disconnect"}

    return receive
