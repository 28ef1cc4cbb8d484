"""`ostler zone`."""

from __future__ import annotations

import click
from ostler.control.v1 import zone_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ZONE
from ostler_control.cli.options import confirm, limit_option, list_options, output_option, request_id_option, yes_option
from ostler_control.cli.output import Listing, View, print_list, print_one

VIEW = View[pb.Zone](
    "zone",
    columns=[("name", lambda z: z.name), ("age", lambda z: text.age(z, "create_time"))],
    details=[("labels", lambda z: labels_joined(z.labels)), ("id", lambda z: z.id)],
)


@click.group(cls=Noun)
def command() -> None:
    """Zones: locations with their own network and storage."""


@command.command("create")
@click.argument("name")
@request_id_option
@output_option
@pass_app
def create(app: App, name: str, request_id: str, output: str) -> None:
    """Creates a zone.

    \b
    Example:
      ostler zone create berlin
    """
    print_one(VIEW, app.client.zones.CreateZone(pb.CreateZoneRequest(name=name, request_id=request_id)), output)


@command.command("list")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists all zones.

    \b
    Example:
      ostler zone list -o name
    """
    request = pb.ListZonesRequest(selector=selector)
    print_list(VIEW, pages(app.client.zones.ListZones, request, lambda a: a.zones, limit), listing)


@command.command("show")
@click.argument("zone", type=ZONE)
@output_option
@pass_app
def show(app: App, zone: str, output: str) -> None:
    """Shows one zone.

    \b
    Example:
      ostler zone show berlin
    """
    print_one(VIEW, app.client.zones.GetZone(pb.GetZoneRequest(zone=zone)), output)


@command.command("delete")
@click.argument("zone", type=ZONE)
@yes_option
@pass_app
def delete(app: App, zone: str, yes: bool) -> None:
    """Deletes an empty zone.

    \b
    Example:
      ostler zone delete berlin --yes
    """
    confirm(f"Delete zone {zone}?", yes)
    app.client.zones.DeleteZone(pb.DeleteZoneRequest(zone=zone))
    click.echo(f"zone {zone} is deleted")


command.add_command(label_command("zone"))
