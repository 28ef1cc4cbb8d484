"""`ostler event`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
from google.protobuf.timestamp_pb2 import Timestamp
from ostler.control.v1 import event_pb2 as pb
from ostler_common.errors import FailedPreconditionError
from ostler_common.text import printable

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.objects import object_id, object_options
from ostler_control.cli.options import DURATION, limit_option, list_options
from ostler_control.cli.output import Listing, View, print_data, print_list

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
    details=[("sequence", lambda e: str(e.sequence) if e.sequence else text.NONE)],
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


@command.command("watch")
@object_options
@click.option("--type", "type_", default="", help="Only this type and its subtypes: vm, vm.migrate.")
@click.option("--since", type=DURATION, help="Begin with the events of the last, e.g., 2h.  [default: from now on]")
@click.option("--after", type=click.IntRange(min=0), metavar="SEQUENCE", help="Begin after the event with this number.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="Output format; json prints one object per line.",
)
@pass_app
def watch(
    app: App,
    host: str,
    vm: str,
    volume: str,
    resource: str,
    type_: str,
    since: int | None,
    after: int | None,
    output: str,
) -> None:
    """Prints events as they happen, oldest first, until Ctrl-C.

    A control plane that does not answer is tried for a minute; no event is lost or printed twice.

    \b
    Examples:
      ostler event watch --type host
      ostler event watch --after 1041 -o json
    """
    if since is not None and after is not None:
        raise click.UsageError("give at most one of --since, --after")
    begin = None if since is None else datetime.now(UTC) - timedelta(seconds=since)
    of = object_id(app, host, vm, volume, resource)
    found = app.client.watch_events(resource_id=of, type=type_, since=begin, after=after, on_silence=_tell_silence)
    last = after
    try:
        for event in found:
            _print_event(event, output)
            last = event.sequence
    except KeyboardInterrupt:
        if last is not None:
            click.echo(f"\nTo continue: ostler event watch --after {last}", err=True)
        raise click.Abort from None


def _tell_silence() -> None:
    from ostler_control.cli.waiting import SILENCE

    click.echo(SILENCE, err=True)


def _print_event(event: pb.Event, output: str) -> None:
    if output == "json":
        from ostler_control.cli.documents import to_json
        from ostler_control.cli.plain import to_plain

        click.echo(to_json(to_plain(event), indent=None))
    else:
        cells = [printable(text.or_dash(cell(event))).replace("\n", " ") for _, cell in VIEW.columns]
        click.echo("  ".join(cells))


@command.command("verify")
@click.option(
    "--known",
    metavar="SEQUENCE:DIGEST",
    help="An event that you remember from an earlier run: the log up to it must be the same.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json", "yaml")),
    default="table",
    show_default=True,
    help="Output format.",
)
@pass_app
def verify(app: App, known: str | None, output: str) -> None:
    """Verifies that no event was altered or removed.

    It names the first one that was, and then has exit code 6. Keep the last line's SEQUENCE:DIGEST outside of the
    fleet: who can write to the database could otherwise write the whole log anew.

    \b
    Examples:
      ostler event verify
      ostler event verify --known 1041:5f0c2a...
    """
    request = pb.VerifyEventsRequest()
    if known is not None:
        sequence, _, request.known_digest = known.partition(":")
        if not (sequence.isascii() and sequence.isdecimal() and request.known_digest):
            raise click.BadParameter("is not SEQUENCE:DIGEST", param_hint="--known")
        request.known_sequence = int(sequence)
    answer = app.client.events.VerifyEvents(request)
    if output != "table":
        from ostler_control.cli.plain import to_plain

        print_data(to_plain(answer), output)
    elif answer.checked_count:
        click.echo(
            f"{answer.checked_count} events are as they were written, {answer.first_sequence} to "
            f"{answer.last_sequence}\n{answer.last_sequence}:{answer.last_digest}"
        )
    if answer.HasField("first_break"):
        found = answer.first_break
        raise FailedPreconditionError(f"the audit log is not whole: {found.message}", "EVENTS_BROKEN")
