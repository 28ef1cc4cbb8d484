"""Pages that are followed."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, cast

import pytest
from ostler.control.v1.event_pb2 import Event, WatchEventsRequest, WatchEventsResponse
from ostler_common.errors import CancelledError, UnavailableError
from ostler_control.web import changes as changes_module
from ostler_control.web import live
from ostler_control.web.changes import Changes
from starlette.responses import HTMLResponse, Response

from tests.fakes.working_agent import wait_until


class Events:
    """A stream of events: `say` sends one, None ends it with an error."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[WatchEventsResponse | None] = queue.SimpleQueue()
        self.opened = 0

    def watch(self, request: WatchEventsRequest) -> Any:
        self.opened += 1
        return self

    def say(self, *answers: WatchEventsResponse | None) -> None:
        for answer in answers:
            self.queue.put(answer)

    def cancel(self) -> None:
        self.queue.put(None)

    def __iter__(self) -> Iterator[WatchEventsResponse]:
        while (answer := self.queue.get()) is not None:
            yield answer
        raise CancelledError("the stream has ended", "RPC")


EVENT, SIGN_OF_LIFE = WatchEventsResponse(event=Event(type="vm.start")), WatchEventsResponse(sequence=1)


def silent() -> Changes:
    """A stream of events that never answers."""
    return Changes(Events().watch)


def followed(
    page: Callable[[], Response], changes: Changes, periods_s: tuple[float, float]
) -> AsyncGenerator[object, None]:
    """What a browser would read."""
    return cast(AsyncGenerator[object, None], live.follow(page, lambda: False, changes, periods_s).body_iterator)


def first(count: int, page: Callable[[], Response]) -> list[str]:
    """The first things that a stream sends."""

    async def read() -> list[str]:
        found: list[str] = []
        async for chunk in live.follow(page, lambda: False, silent(), (0.0, 0.0)).body_iterator:
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


def test_a_control_plane_that_let_a_page_wait_and_failed_is_asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_SHARE", 1e-6)  # a page that took a moment would rest for hours
    answer = answers(UnavailableError("nobody answers", "RPC"), "<p>here")

    def page() -> Response:
        time.sleep(0.01)
        return answer()

    assert first(2, page)[1] == "event: content\ndata: <p>here\n\n"


def test_a_line_of_a_page_cannot_end_its_message() -> None:
    assert live.message("content", "a\r\n\r\nevent: x\rb") == (
        "event: content\ndata: a\ndata: \ndata: event: x\ndata: b\n\n"
    )


def test_an_event_has_the_page_asked_again_at_once() -> None:
    events = Events()
    events.say(SIGN_OF_LIFE)
    changes = Changes(events.watch)
    values = iter(["<p>one", "<p>two"])

    async def read() -> list[object]:
        found: list[object] = []
        stream = followed(lambda: HTMLResponse(next(values)), changes, (3600.0, 3600.0))
        found.append(await anext(stream))
        while not changes.is_heard:
            await asyncio.sleep(0.01)
        events.say(EVENT)
        found.append(await anext(stream))
        await stream.aclose()
        return found

    assert asyncio.run(asyncio.wait_for(read(), 30)) == [
        "event: content\ndata: <p>one\n\n",
        "event: content\ndata: <p>two\n\n",
    ]


def test_without_events_a_page_is_asked_again_after_the_longer_period() -> None:
    events = Events()
    events.say(SIGN_OF_LIFE)
    changes = Changes(events.watch)
    asked: list[float] = []

    def page() -> Response:
        asked.append(time.monotonic())
        return HTMLResponse(str(len(asked)))

    async def read() -> None:
        stream = followed(page, changes, (3600.0, 0.5))
        for _ in range(2):
            await anext(stream)
        await stream.aclose()

    begun = time.monotonic()  # the first time that it is asked is not before, but may be later than planned
    asyncio.run(asyncio.wait_for(read(), 30))
    assert asked[1] - begun >= 0.5


def test_the_stream_is_opened_again_after_an_error_and_closed_behind_the_last_follower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes_module, "PAUSE_S", 0.01)
    events = Events()
    changes = Changes(events.watch)
    with changes.followed(), changes.followed():
        events.say(SIGN_OF_LIFE, EVENT, None, SIGN_OF_LIFE, EVENT)
        wait_until(lambda: changes.number == 2 and changes.is_heard)
        assert events.opened == 2
    wait_until(lambda: not changes.is_heard)
    wait_until(lambda: "changes" not in [thread.name for thread in threading.enumerate()])
    with changes.followed():
        wait_until(lambda: events.opened == 3)


def test_a_stream_ends_when_the_console_stops() -> None:
    stopping: list[bool] = []

    def page() -> Response:
        stopping.append(True)
        return HTMLResponse("<p>last")

    async def read() -> list[object]:
        return [
            chunk async for chunk in live.follow(page, lambda: bool(stopping), silent(), (3600.0, 3600.0)).body_iterator
        ]

    assert asyncio.run(read()) == ["event: content\ndata: <p>last\n\n"]
