"""The audit log."""

from __future__ import annotations

from ostler.control.v1.event_pb2 import ListEventsRequest
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.commands import event
from ostler_control.web import tables
from ostler_control.web.context import Console
from ostler_control.web.lists import render_list


def events(console: Console, request: Request) -> Response:
    """The page of events."""
    filters = tables.Filters(request, ("type", "Type (vm, host.disconnected)"), ("resource", "Id of the object"))
    wanted = ListEventsRequest(
        page_size=tables.PAGE_SIZE, page_token=filters.page, resource_id=filters["resource"], type=filters["type"]
    )
    answer = console.app.client.events.ListEvents(wanted)
    table = tables.table(event.VIEW, answer.events, "Events", next=filters.next(answer.next_page_token))
    return render_list(console, request, ("event", "list"), filters, table)
