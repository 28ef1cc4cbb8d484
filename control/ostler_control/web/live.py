"""Live pages: the server asks the API again when something happens, and sends the page's block `live` when it changed.

A page is followed at its own address by a request that accepts `text/event-stream`: the browser's EventSource, see
static/live.js. The events are `content`, HTML of the block, and `failure`, why the API did not answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from ostler_common.errors import OstlerError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from ostler_control.web.changes import Changes
from ostler_control.web.context import EVENT_STREAM, HtmlPage

# Between two questions: for what moves without events, and where the stream of events is not there; and for the rest,
# such as the load of hosts.
PERIOD_S, QUIET_PERIOD_S = 1.0, 5.0
# How often a stream that waits looks whether something has happened, or the console stops.
STEP_S = 0.2
# Pages that take the control plane long are asked for less often: it works for one at most this share of the time. One
# that does not answer does not work.
MAX_SHARE = 0.1
# The browser connects again by itself; a connection that nobody reads is gone by then.
MAX_STREAM_S = 600.0


def follow(
    page: Callable[[], Response],
    is_stopping: Callable[[], bool],
    changes: Changes,
    periods_s: tuple[float, float] = (PERIOD_S, QUIET_PERIOD_S),
) -> StreamingResponse:
    """A stream of what `page` answers, until the console stops. page: blocks, and is called in a thread."""
    return StreamingResponse(_events(page, is_stopping, changes, periods_s), media_type=EVENT_STREAM)


async def _events(
    page: Callable[[], Response], is_stopping: Callable[[], bool], changes: Changes, periods_s: tuple[float, float]
) -> AsyncIterator[str]:
    end = time.monotonic() + MAX_STREAM_S
    moving_s, quiet_s = periods_s
    last, is_moving = "", False
    with changes.followed():
        while (begin := time.monotonic()) < end and not is_stopping():
            seen, worked_s = changes.number, 0.0
            try:
                response = await run_in_threadpool(page)
                worked_s = time.monotonic() - begin
                event = message("content", bytes(response.body).decode())
                is_moving = isinstance(response, HtmlPage) and response.is_moving
            except OstlerError as error:
                event = message("failure", f"{error.message} [{error.reason}]")
            # A comment: what is sent finds out whether the browser is there.
            yield event if event != last else ":\n\n"
            last = event
            rest = time.monotonic() + worked_s / MAX_SHARE
            while not is_stopping():
                now = time.monotonic()
                period_s = quiet_s if changes.is_heard and not is_moving else moving_s
                left_s = max(rest, begin + period_s) - now
                if left_s <= 0 or (now >= rest and changes.number != seen):
                    break
                await asyncio.sleep(min(left_s, STEP_S))


def message(event: str, data: str) -> str:
    """A message of an event stream, as the HTML standard has it: a line `data` for each line of the text."""
    lines = "".join(f"data: {line}\n" for line in data.splitlines())
    return f"event: {event}\n{lines}\n"
