"""Pages that are followed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from ostler_common.errors import UnavailableError
from ostler_control.web import live
from starlette.responses import HTMLResponse, Response


def first(count: int, page: Callable[[], Response]) -> list[str]:
    """The first things that a stream sends."""

    async def read() -> list[str]:
        found: list[str] = []
        async for chunk in live.follow(page, lambda: False, period_s=0.0).body_iterator:
            found.append(bytes(chunk, "utf-8").decode() if isinstance(chunk, str) else bytes(chunk).decode())
            if len(found) == count:
                break
        return found

    return asyncio.run(read())


def answers(*values: str | UnavailableError) -> Callable[[], Response]:
    rest: Iterator[str | UnavailableError] = iter(values)

    def page() -> Response:
        value = next(rest)
        if isinstance(value, UnavailableError):
            raise value
        return HTMLResponse(value)

    return page


def test_a_page_is_sent_when_it_has_changed() -> None:
    sent = first(3, answers("<p>one", "<p>one", "<p>two"))
    assert sent == ["event: content\ndata: <p>one\n\n", ":\n\n", "event: content\ndata: <p>two\n\n"]


def test_a_control_plane_that_is_away_is_asked_again() -> None:
    sent = first(2, answers(UnavailableError("nobody\nanswers", "RPC"), "<p>here"))
    assert sent == ["event: failure\ndata: nobody\ndata: answers [RPC]\n\n", "event: content\ndata: <p>here\n\n"]


def test_a_line_of_a_page_cannot_end_its_message() -> None:
    assert live.message("content", "a\r\n\r\nevent: x\rb") == (
        "event: content\ndata: a\ndata: \ndata: event: x\ndata: b\n\n"
    )


def test_a_stream_ends_when_the_console_stops() -> None:
    stopping: list[bool] = []

    def page() -> Response:
        stopping.append(True)
        return HTMLResponse("<p>last")

    async def read() -> list[object]:
        return [chunk async for chunk in live.follow(page, lambda: bool(stopping), period_s=3600.0).body_iterator]

    assert asyncio.run(read()) == ["event: content\ndata: <p>last\n\n"]
