"""ostler.control.v1.EventService."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import grpc
from ostler.control.v1 import event_pb2 as pb
from ostler.control.v1 import event_pb2_grpc
from ostler_common.errors import UnavailableError, bad_field
from peewee import ModelSelect

from ostler_control import events
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import core
from ostler_control.api.convert.times import time_of
from ostler_control.api.paging import page
from ostler_control.api.redact import concealer
from ostler_control.api.resolve import visible
from ostler_control.api.session import with_sessions
from ostler_control.caller import Caller
from ostler_control.events import verify, watch
from ostler_control.events.chain import Mark
from ostler_control.models import Event


@with_sessions
class EventService(event_pb2_grpc.EventServiceServicer):
    def __init__(self, stopping: threading.Event) -> None:
        """stopping: set when the control plane stops, so that watchers leave at once."""
        self._stopping = stopping

    def ListEvents(self, request: pb.ListEventsRequest, context: grpc.ServicerContext) -> pb.ListEventsResponse:
        caller = caller_of(context)
        since = time_of(request.start_time, "start_time") if request.HasField("start_time") else None
        query = events.matching(
            visible(Event, caller), resource_id=request.resource_id, type=request.type, start_time=since
        )
        found = page(query, Event, request, scope=caller.actor, newest_first=True)
        return pb.ListEventsResponse(events=_messages(found.rows, caller), next_page_token=found.next_page_token)

    def WatchEvents(
        self, request: pb.WatchEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchEventsResponse]:
        caller = caller_of(context)
        after = _start(request)

        def pause(seconds: float) -> bool:
            if self._stopping.wait(seconds):
                raise UnavailableError("the control plane is stopping; call again", "STOPPING")
            return not context.is_active()

        def query() -> ModelSelect[Event]:
            return events.matching(visible(Event, caller), resource_id=request.resource_id, type=request.type)

        for batch in watch.follow(query, after, pause):
            for message in _messages(batch.events, caller):
                yield pb.WatchEventsResponse(event=message, sequence=message.sequence)
            yield pb.WatchEventsResponse(sequence=batch.sequence)

    def VerifyEvents(self, request: pb.VerifyEventsRequest, context: grpc.ServicerContext) -> pb.VerifyEventsResponse:
        caller_of(context)
        return core.verdict(verify.verify(_known(request)))


def _start(request: pb.WatchEventsRequest) -> int:
    """The number of the event after which the stream begins."""
    if not request.HasField("after_sequence"):
        return watch.start_at(time_of(request.start_time, "start_time") if request.HasField("start_time") else None)
    if request.HasField("start_time"):
        raise bad_field("start_time", "must not be given together with after_sequence", "CONFLICTING_FIELDS")
    if request.after_sequence < 0:
        raise bad_field("after_sequence", "must not be negative", "INVALID_SEQUENCE")
    return request.after_sequence


def _known(request: pb.VerifyEventsRequest) -> Mark | None:
    if request.known_sequence < 0 or bool(request.known_sequence) != bool(request.known_digest):
        raise bad_field("known_sequence", "must be positive, and given together with known_digest", "INVALID_SEQUENCE")
    return Mark(request.known_sequence, request.known_digest.lower()) if request.known_sequence else None


def _messages(rows: Iterable[Event], caller: Caller) -> list[pb.Event]:
    messages = [core.event(row) for row in rows]
    if messages and not caller.is_admin:
        conceal = concealer(caller.account_id)
        for message in messages:
            message.message, message.actor, message.digest = conceal(message.message), conceal(message.actor), ""
    return messages
