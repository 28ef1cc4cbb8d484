"""Watching: an object until something is true of it, and events as they happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from ostler.client.paging import pages
from ostler.client.reaching import reached
from ostler.control.v1.event_pb2 import Event, ListEventsRequest

if TYPE_CHECKING:
    from ostler.control.v1.event_pb2_grpc import EventServiceStub

T = TypeVar("T")

POLL_S = 1.0
# Events of operations that end together may be recorded in another order than their times.
OVERLAP = timedelta(seconds=30)


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
    interval_s: float = POLL_S,
) -> Iterator[Event]:
    """Events as they happen, the oldest first, each once, for as long as the caller wants.

    resource_id: only of this object; type: only of this type and its subtypes ("vm"); since: from then on, with time
    zone (default: now).
    """
    start = since or datetime.now(UTC)
    known: dict[str, datetime] = {}
    while True:
        for event in reversed(_since(stub, start, resource_id, type)):
            if event.id not in known:
                known[event.id] = event.time.ToDatetime(tzinfo=UTC)
                yield event
        if known:
            start = max(start, max(known.values()) - OVERLAP)
            known = {id_: time for id_, time in known.items() if time >= start}
        time.sleep(interval_s)


def _since(stub: EventServiceStub, start: datetime, resource_id: str, type_: str) -> list[Event]:
    begin = Timestamp()
    begin.FromDatetime(start)

    def rows() -> list[Event]:
        request = ListEventsRequest(resource_id=resource_id, type=type_, start_time=begin)
        return list(pages(stub.ListEvents, request, lambda answer: answer.events))

    return reached(rows)
