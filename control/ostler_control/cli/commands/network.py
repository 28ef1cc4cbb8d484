"""`ostler network`."""

from __future__ import annotations

import click
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import network_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ACCOUNT, NETWORK, ZONE
from ostler_control.cli.options import (
    Options,
    confirm,
    limit_option,
    list_options,
    output_option,
    request_id_option,
    yes_option,
)
from ostler_control.cli.output import Listing, View, print_list, print_one

VLAN = click.IntRange(0, 4094)
MTU = click.IntRange(0, 65535)

VIEW = View[pb.Network](
    "network",
    columns=[
        ("name", lambda n: n.name),
        ("zone", lambda n: n.zone_name),
        ("bridge", lambda n: n.bridge),
        ("vlan", lambda n: str(n.vlan or "")),
        ("mtu", lambda n: str(n.mtu or "")),
        ("filter", lambda n: text.yes(n.filter)),
        ("accounts", lambda n: "all" if n.all_accounts else text.joined(n.accounts)),
        ("vms", lambda n: str(n.vm_count)),
    ],
    details=[
        ("labels", lambda n: labels_joined(n.labels)),
        ("id", lambda n: n.id),
        ("created", lambda n: text.when(n, "create_time")),
    ],
)


@click.group(cls=Noun)
def command() -> None:
    """Networks: bridges that accounts may put their VMs on."""


@command.command("create")
@click.argument("name")
@click.option("--bridge", required=True, help="Bridge on the hosts of the zone.")
@click.option("--zone", type=ZONE, default="", help="Zone.  [default: the only one]")
@click.option("--vlan", type=VLAN, default=0, help="VLAN tag, 1 to 4094.  [default: untagged]")
@click.option("--mtu", type=MTU, default=0, help="MTU, bytes.  [default: that of the bridge]")
@click.option("--allow", "accounts", type=ACCOUNT, multiple=True, help="Account that may use it; may be repeated.")
@click.option("--all-accounts", is_flag=True, help="Every account may use it.")
@click.option("--no-filter", is_flag=True, help="Let VMs send frames with any sender and VLAN tag: for routers.")
@request_id_option
@output_option
@pass_app
def create(
    app: App,
    name: str,
    bridge: str,
    zone: str,
    vlan: int,
    mtu: int,
    accounts: tuple[str, ...],
    all_accounts: bool,
    no_filter: bool,
    request_id: str,
    output: str,
) -> None:
    """Creates a network.

    VMs on it run on hosts of the zone that have the bridge. Hosts drop frames of a VM that have another sender than the
    VM or a VLAN tag, unless you say --no-filter. Without the filter and without --vlan, a VM reaches every VLAN that
    the bridge's uplink carries.

    \b
    Examples:
      ostler network create public --bridge br0 --all-accounts
      ostler network create acme-lan --bridge br0 --vlan 100 --mtu 9000 --allow acme
    """
    request = pb.CreateNetworkRequest(
        request_id=request_id,
        name=name,
        zone=zone,
        bridge=bridge,
        vlan=vlan,
        mtu=mtu,
        no_filter=no_filter,
        all_accounts=all_accounts,
        allowed_accounts=accounts,
    )
    print_one(VIEW, app.client.networks.CreateNetwork(request), output)


@command.command("list")
@click.option("--zone", type=ZONE, default="", help="Only those of this zone.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, zone: str, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists the networks that you may use; admins see all.

    \b
    Example:
      ostler network list
    """
    request = pb.ListNetworksRequest(zone=zone, selector=selector)
    print_list(VIEW, pages(app.client.networks.ListNetworks, request, lambda a: a.networks, limit), listing)


@command.command("show")
@click.argument("network", type=NETWORK)
@output_option
@pass_app
def show(app: App, network: str, output: str) -> None:
    """Shows one network.

    \b
    Example:
      ostler network show public
    """
    print_one(VIEW, app.client.networks.GetNetwork(pb.GetNetworkRequest(network=network)), output)


@command.command("update")
@click.argument("network", type=NETWORK)
@click.option("--name", help="New name.")
@click.option("--bridge", help="Bridge, while no VM is on the network.")
@click.option("--vlan", type=VLAN, help="VLAN tag, or 0 for none, while no VM is on the network.")
@click.option("--mtu", type=MTU, help="MTU, bytes, or 0 for that of the bridge.")
@click.option(
    "--filter/--no-filter", "filter_", default=None, help="Whether hosts drop frames with another sender or a VLAN tag."
)
@click.option("--all-accounts/--no-all-accounts", default=None, help="Whether every account may use it.")
@click.option("--allow", type=ACCOUNT, multiple=True, help="Account that may use it from now on; may be repeated.")
@click.option("--disallow", type=ACCOUNT, multiple=True, help="Account that may add no more VMs; may be repeated.")
@output_option
@pass_app
def update(
    app: App,
    network: str,
    name: str | None,
    bridge: str | None,
    vlan: int | None,
    mtu: int | None,
    filter_: bool | None,
    all_accounts: bool | None,
    allow: tuple[str, ...],
    disallow: tuple[str, ...],
    output: str,
) -> None:
    """Changes a network. VMs get a new MTU or filter when they next start.

    \b
    Examples:
      ostler network update acme-lan --allow bolt --disallow acme
      ostler network update br0 --filter
    """
    given = {
        "name": name, "bridge": bridge, "vlan": vlan, "mtu": mtu, "filter": filter_, "all_accounts": all_accounts,
    }  # fmt: skip
    values: Options = {field: value for field, value in given.items() if value is not None}
    if allow or disallow:
        present = app.client.networks.GetNetwork(pb.GetNetworkRequest(network=network)).accounts
        values["accounts"] = sorted((set(present) | set(allow)) - set(disallow))
    if not values:
        raise click.UsageError("nothing to change: give one of the options of `ostler network update --help`")
    request = pb.UpdateNetworkRequest(
        network=network, values=pb.Network(**values), update_mask=FieldMask(paths=sorted(values))
    )
    print_one(VIEW, app.client.networks.UpdateNetwork(request), output)


@command.command("delete")
@click.argument("network", type=NETWORK)
@yes_option
@pass_app
def delete(app: App, network: str, yes: bool) -> None:
    """Deletes a network that no VM is on.

    \b
    Example:
      ostler network delete acme-lan --yes
    """
    confirm(f"Delete network {network}?", yes)
    app.client.networks.DeleteNetwork(pb.DeleteNetworkRequest(network=network))
    click.echo(f"network {network} is deleted")


command.add_command(label_command("network"))
