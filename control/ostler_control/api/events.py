"""ostler.control.v1.EventService."""

from __future__ import annotations

import grpc
from ostler.control.v1 import event_pb2 as pb
from ostler.control.v1 import event_pb2_grpc

from ostler_control import events
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import core
from ostler_control.api.convert.times import time_of
from ostler_control.api.paging import page
from ostler_control.api.redact import concealer
from ostler_control.api.resolve import visible
from ostler_control.api.session import with_sessions
from ostler_control.models import Event


@with_sessions
class EventService(event_pb2_grpc.EventServiceServicer):
    def ListEvents(self, request: pb.ListEventsRequest, context: grpc.ServicerContext) -> pb.ListEventsResponse:
        caller = caller_of(context)
        since = time_of(request.start_time, "start_time") if request.HasField("start_time") else None
        query = events.matching(
            visible(Event, caller), resource_id=request.resource_id, type=request.type, start_time=since
        )
        found = page(query, Event, request, scope=caller.actor, newest_first=True)
        messages = [core.event(row) for row in found.rows]
        if not caller.is_admin:
            conceal = concealer(caller.account_id)
            for message in messages:
                message.message, message.actor = conceal(message.message), conceal(message.actor)
        return pb.ListEventsResponse(events=messages, next_page_token=found.next_page_token)
