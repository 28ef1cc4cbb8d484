"""Watching: an object until something is true of it, and events as they happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from ostler.client.reaching import AWAY, PAUSE_S, SILENCE_S, reached
from ostler.control.v1.event_pb2 import Event, WatchEventsRequest

if TYPE_CHECKING:
    from ostler.control.v1.event_pb2_grpc import EventServiceStub

T = TypeVar("T")

POLL_S = 1.0


def states(
    get: Callable[[], T], interval_s: float = POLL_S, on_silence: Callable[[], None] | None = None
) -> Iterator[T]:
    """What a call answers, again and again, for as long as the caller wants: the first answer at once.

    get: a call that only reads, e.g. `lambda: client.vms.GetVm(GetVmRequest(vm="web-1"))`. on_silence: see `reached`.
    """
    while True:
        yield reached(get, on_silence)
        time.sleep(interval_s)


def events(
    stub: EventServiceStub,
    *,
    resource_id: str = "",
    type: str = "",  # the field's name
    since: datetime | None = None,
    after: int | None = None,
    on_silence: Callable[[], None] | None = None,
) -> Iterator[Event]:
    """Events as they happen, the oldest first, each once, for as long as the caller wants.

    resource_id: only of this object; type: only of this type and its subtypes ("vm"); since: from then on, with time
    zone (default: now); after: instead, after the event with this sequence number. on_silence: see `reached`.
    """
    request = WatchEventsRequest(resource_id=resource_id, type=type, after_sequence=after)
    if since is not None:
        request.start_time.FromDatetime(since)
    heard = time.monotonic()
    while True:
        asked = time.monotonic()
        call = stub.WatchEvents(request)
        try:
            for answer in call:
                heard = time.monotonic()
                request.after_sequence = answer.sequence
                request.ClearField("start_time")
                if answer.HasField("event"):
                    yield answer.event
        except AWAY:
            if asked - heard > SILENCE_S:
                raise
        finally:
            call.cancel()
        if on_silence is not None:
            on_silence()
        time.sleep(PAUSE_S)
