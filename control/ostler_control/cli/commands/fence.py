"""`ostler fence`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from ostler.control.v1 import ha_pb2 as pb

from ostler_control.cli import passphrases, text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import HOST
from ostler_control.cli.options import confirm, limit_option, list_options, output_option, yes_option
from ostler_control.cli.output import Listing, View, print_list, print_one

AGENTS = ("redfish", "ipmi")

VIEW = View[pb.FenceDevice](
    "fence device",
    columns=[
        ("host", lambda d: d.host_name),
        ("agent", lambda d: d.agent),
        ("address", lambda d: d.address),
        ("user", lambda d: d.username),
        ("power on", lambda d: text.yes(d.power_on)),
        ("tested", lambda d: text.when(d, "test_time")),
        ("power", lambda d: d.test_power),
        ("error", lambda d: d.test_error),
    ],
    details=[("options", lambda d: ", ".join(f"{key}={value}" for key, value in sorted(d.options.items())))],
    name=lambda d: d.host_name,
)


@click.group(cls=Noun)
def command() -> None:
    """Fence devices, which switch the power of hosts."""


@command.command("add")
@click.argument("host", type=HOST)
@click.option("--agent", type=click.Choice(AGENTS), required=True, help="The protocol that the device speaks.")
@click.option("--address", metavar="HOST[:PORT]", required=True, help="Address of the device, such as the host's BMC.")
@click.option("--user", "username", required=True, help="User of the device that may switch power.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The password is this file's first line; - is standard input.  [default: it is asked for]",
)
@click.option("--plug", default="", help="Redfish, required: id of the host's system, such as 1 or System.Embedded.1.")
@click.option("--redfish-uri", default="", help="Redfish: path of the service root.  [default: /redfish/v1]")
@click.option(
    "--insecure", is_flag=True, help="Redfish: accept any TLS certificate. Whoever is in between may read the password."
)
@click.option("--cipher", type=click.Choice(("17", "3")), help="IPMI: the cipher suite.  [default: 17]")
@click.option("--power-on", is_flag=True, help="Switch a fenced host on again.")
@output_option
@pass_app
def add(
    app: App,
    host: str,
    agent: str,
    address: str,
    username: str,
    password_file: Path | None,
    plug: str,
    redfish_uri: str,
    insecure: bool,
    cipher: str | None,
    power_on: bool,
    output: str,
) -> None:
    """Adds the fence device of HOST. The device must answer now; nothing is switched.

    \b
    Examples:
      ostler fence add h1 --agent redfish --address h1-bmc.example.org --plug 1 --user ostler --password-file h1.bmc
      ostler fence add h2 --agent ipmi --address h2-bmc.example.org --user ostler --password-file h2.bmc
    """
    options = {"plug": plug, "redfish_uri": redfish_uri, "insecure": "true" if insecure else "", "cipher": cipher or ""}
    request = pb.AddFenceDeviceRequest(
        host=host,
        agent=agent,
        address=address,
        username=username,
        password=_password(password_file),
        options={key: value for key, value in options.items() if value},
        power_on=power_on,
    )
    print_one(VIEW, app.client.ha.AddFenceDevice(request), output)


def _password(path: Path | None) -> bytes:
    if path is not None:
        return passphrases.read(path).reveal()
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to type the password: add --password-file")
    typed: str = click.prompt("Password of the fence device", hide_input=True, err=True)
    return typed.encode()


@command.command("list")
@limit_option()
@list_options
@pass_app
def list_(app: App, limit: int | None, listing: Listing) -> None:
    """Lists fence devices, with the answer to their last test.

    \b
    Example:
      ostler fence list
    """
    rows = pages(app.client.ha.ListFenceDevices, pb.ListFenceDevicesRequest(), lambda a: a.fence_devices, limit)
    print_list(VIEW, rows, listing)


@command.command("test")
@click.argument("host", type=HOST)
@output_option
@pass_app
def test(app: App, host: str, output: str) -> None:
    """Asks the fence device of HOST whether the host is on. Switches nothing.

    \b
    Example:
      ostler fence test h1
    """
    tested = app.client.ha.TestFenceDevice(pb.TestFenceDeviceRequest(host=host))
    print_one(VIEW, tested, output)
    if tested.test_error:
        raise SystemExit(1)


@command.command("remove")
@click.argument("host", type=HOST)
@yes_option
@pass_app
def remove(app: App, host: str, yes: bool) -> None:
    """Removes the fence device of HOST, and its password. The host is not fenced any more.

    \b
    Example:
      ostler fence remove h1 --yes
    """
    confirm(f"Remove the fence device of host {host}?", yes)
    app.client.ha.RemoveFenceDevice(pb.RemoveFenceDeviceRequest(host=host))
    click.echo(f"the fence device of host {host} is removed")
