"""Who gets into the console, and what a browser may do with its pages."""

from __future__ import annotations

import pytest
from ostler_control.web.security import HEADERS, MAX_BODY_BYTES, Gate, Sessions
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

PORT = 4321
OWN = f"http://127.0.0.1:{PORT}"
FORM = {"content-type": "application/x-www-form-urlencoded"}


def _page(request: Request) -> PlainTextResponse:
    return PlainTextResponse(repr(request.scope["state"].get("form")))


async def _echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


class Console:
    """A gate before one page."""

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.entered = 0
        app = Starlette(routes=[Route("/", _page, methods=["GET", "POST", "DELETE"]), WebSocketRoute("/ws", _echo)])
        self.gate = Gate(app, PORT, self.sessions, self._count)

    def _count(self) -> None:
        self.entered += 1

    def browser(self, base: str = OWN) -> TestClient:
        return TestClient(self.gate, base_url=base, follow_redirects=False)

    def inside(self) -> tuple[TestClient, str]:
        """A browser with a session, and its CSRF token."""
        browser = self.browser()
        assert browser.get("/enter", params={"token": self.sessions.new_token()}).status_code == 303
        session = self.sessions.find(browser.cookies[self.gate.cookie_name])
        assert session is not None
        return browser, session.csrf


@pytest.fixture
def console() -> Console:
    return Console()


def test_without_a_session_there_is_nothing(console: Console) -> None:
    answer = console.browser().get("/")
    assert answer.status_code == 401
    assert "NO_SESSION" in answer.text


def test_a_link_gives_a_session_once(console: Console) -> None:
    token = console.sessions.new_token()
    answer = console.browser().get("/enter", params={"token": token})
    assert (answer.status_code, answer.headers["location"], console.entered) == (303, "/", 1)
    cookie = answer.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "path=/"))
    assert token not in cookie
    again = console.browser().get("/enter", params={"token": token})
    assert (again.status_code, console.entered) == (401, 1)


def test_a_new_link_ends_the_one_before(console: Console) -> None:
    old, new = console.sessions.new_token(), console.sessions.new_token()
    assert console.browser().get("/enter", params={"token": old}).status_code == 401
    assert console.browser().get("/enter", params={"token": new}).status_code == 303


@pytest.mark.parametrize("token", ["", "x", "ä" * 20])
def test_a_wrong_token_gives_nothing(console: Console, token: str) -> None:
    console.sessions.new_token()
    answer = console.browser().get("/enter", params={"token": token})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["evil.example:4321", "127.0.0.1", "127.0.0.1:80", "localhost.evil.example:4321", ""])
def test_a_name_rebound_to_loopback_is_refused_even_with_the_cookie(console: Console, host: str) -> None:
    browser, _ = console.inside()
    answer = browser.get("/", headers={"host": host})
    assert answer.status_code == 403
    assert "WRONG_HOST" in answer.text


def test_both_names_of_loopback_are_served(console: Console) -> None:
    browser = console.browser(f"http://localhost:{PORT}")
    browser.get("/enter", params={"token": console.sessions.new_token()})
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:80", f"https://127.0.0.1:{PORT}"]
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_change_needs_our_origin(console: Console, method: str, origin: str | None) -> None:
    browser, csrf = console.inside()
    headers = {**FORM, "x-csrf-token": csrf, **({"origin": origin} if origin else {})}
    answer = browser.request(method, "/", headers=headers)
    assert answer.status_code == 403
    assert "WRONG_ORIGIN" in answer.text


@pytest.mark.parametrize("csrf", [None, "", "wrong"])
def test_a_change_needs_the_session_s_token(console: Console, csrf: str | None) -> None:
    browser, _ = console.inside()
    data = {"vm": "web-1", **({"csrf": csrf} if csrf is not None else {})}
    answer = browser.post("/", data=data, headers={"origin": OWN})
    assert answer.status_code == 403
    assert "BAD_CSRF_TOKEN" in answer.text


def test_the_token_of_another_session_is_refused(console: Console) -> None:
    browser, _ = console.inside()
    _, other = console.inside()
    assert browser.post("/", data={"csrf": other}, headers={"origin": OWN}).status_code == 403


def test_a_change_with_all_of_it_gets_through_without_the_token(console: Console) -> None:
    browser, csrf = console.inside()
    answer = browser.post("/", data={"vm": "web-1", "host": "", "csrf": csrf}, headers={"origin": OWN})
    assert answer.text == repr({"vm": "web-1", "host": ""})


def test_requests_of_other_sites_pages_are_refused(console: Console) -> None:
    browser, _ = console.inside()
    for site in ("cross-site", "same-site"):
        assert browser.get("/", headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}).status_code == 403
    assert browser.get("/", headers={"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}).status_code == 200


def test_large_and_strange_bodies_are_refused(console: Console) -> None:
    browser, csrf = console.inside()
    good = {"origin": OWN, "x-csrf-token": csrf}
    assert browser.post("/", content=b"a=" + b"x" * MAX_BODY_BYTES, headers={**good, **FORM}).status_code == 413
    assert browser.post("/", content=b"{}", headers={**good, "content-type": "application/json"}).status_code == 415
    assert browser.post("/", content=b"a=1&" * 200 + b"b=1", headers={**good, **FORM}).status_code == 400
    assert browser.post("/", content=b"\xff=1", headers={**good, **FORM}).status_code == 400


def test_a_websocket_needs_session_and_origin(console: Console) -> None:
    browser, _ = console.inside()
    for headers in ({}, {"origin": "http://evil.example"}):
        with (
            pytest.raises(WebSocketDisconnect),
            browser.websocket_connect(f"ws://127.0.0.1:{PORT}/ws", headers=headers),
        ):
            pass
    url = f"ws://127.0.0.1:{PORT}/ws"
    with pytest.raises(WebSocketDisconnect), console.browser().websocket_connect(url, headers={"origin": OWN}):
        pass
    with browser.websocket_connect(url, headers={"origin": OWN}) as socket:
        assert socket.receive_text() == "hello"


def test_every_response_has_the_headers(console: Console) -> None:
    browser, _ = console.inside()
    nonces: set[str] = set()
    for answer in (browser.get("/"), browser.get("/absent"), console.browser().get("/"), browser.get("/enter")):
        given = {name: answer.headers[name] for name in HEADERS}
        nonce = given["content-security-policy"].partition("'nonce-")[2].partition("'")[0]
        assert given == {name: value.format(nonce=nonce) for name, value in HEADERS.items()}
        nonces.add(nonce)
    assert len(nonces) == 4
    csp = HEADERS["content-security-policy"]
    assert "default-src 'none'" in csp
    assert "frame-ancestors 'none'" in csp
    assert "unsafe" not in csp


def test_secrets_are_not_in_repr(console: Console) -> None:
    _, csrf = console.inside()
    session = console.sessions._sessions[-1]
    assert csrf not in repr(session)
    assert session.cookie not in repr(session)
