"""`ostler event`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
from google.protobuf.timestamp_pb2 import Timestamp
from ostler.control.v1 import event_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.objects import object_id, object_options
from ostler_control.cli.options import DURATION, limit_option, list_options
from ostler_control.cli.output import Listing, View, print_list

VIEW = View[pb.Event](
    "event",
    columns=[
        ("time", lambda e: f"{text.moment(e.time):%m-%d %H:%M:%S}"),
        ("type", lambda e: e.type),
        ("outcome", lambda e: text.enum_of(e, "outcome")),
        ("actor", lambda e: e.actor),
        ("object", lambda e: e.resource_name or e.resource_id),
        ("message", lambda e: e.message),
    ],
    name=lambda e: e.id,
)


@click.group(cls=Noun)
def command() -> None:
    """Audit log: who did what to which object, and when."""


@command.command("list")
@object_options
@click.option("--type", "type_", default="", help="Only this type and its subtypes: vm, vm.migrate.")
@click.option("--since", type=DURATION, help="Only events of the last, e.g., 2h.")
@limit_option(100)
@list_options
@pass_app
def list_(
    app: App,
    host: str,
    vm: str,
    volume: str,
    resource: str,
    type_: str,
    since: int | None,
    limit: int,
    listing: Listing,
) -> None:
    """Lists events, newest first.

    \b
    Examples:
      ostler event list --vm web-1
      ostler event list --type host --since 1d
    """
    request = pb.ListEventsRequest(resource_id=object_id(app, host, vm, volume, resource), type=type_)
    if since is not None:
        start = Timestamp()
        start.FromDatetime(datetime.now(UTC) - timedelta(seconds=since))
        request.start_time.CopyFrom(start)
    print_list(VIEW, pages(app.client.events.ListEvents, request, lambda a: a.events, limit), listing)
