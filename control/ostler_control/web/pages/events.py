"""The audit log."""

from __future__ import annotations

from ostler.control.v1.event_pb2 import ListEventsRequest
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.commands import event
from ostler_control.web import tables
from ostler_control.web.context import Console, command


def events(console: Console, request: Request) -> Response:
    """The page of events; ?type= and ?resource= filter."""
    filters = tables.filters(request, "type", "resource")
    wanted = ListEventsRequest(
        page_size=tables.PAGE_SIZE,
        page_token=request.query_params.get("page", ""),
        resource_id=filters["resource"],
        type=filters["type"],
    )
    answer = console.app.client.events.ListEvents(wanted)
    return console.render(
        request,
        "list.html",
        title="Events",
        here="/events",
        command=command("event", "list", *tables.options(filters)),
        filters=[
            tables.Filter("type", "Type (vm, host.disconnected)", filters["type"]),
            tables.Filter("resource", "Id of the object", filters["resource"]),
        ],
        table=tables.table(
            event.VIEW,
            answer.events,
            "Events",
            next=tables.next_page("/events", filters, answer.next_page_token),
        ),
    )
