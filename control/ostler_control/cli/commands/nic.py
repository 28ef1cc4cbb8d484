"""`ostler nic`."""

from __future__ import annotations

import click
from ostler.control.v1 import vm_pb2 as pb

from ostler_control.cli.app import App, pass_app
from ostler_control.cli.commands._vm_view import VIEW
from ostler_control.cli.commands.vm import parse_nic
from ostler_control.cli.finish import finish
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import VM
from ostler_control.cli.options import CallOptions, operation_options


@click.group(cls=Noun)
def command() -> None:
    """Network interfaces of VMs: add, remove, link."""


@command.command("add")
@click.argument("vm", type=VM)
@click.argument("nic", metavar="NETWORK[,KEY=VALUE]", callback=lambda ctx, param, value: parse_nic(ctx, param, value))
@operation_options()
@pass_app
def add(app: App, vm: str, nic: pb.VmNic, call: CallOptions) -> None:
    """Adds a network interface to a VM, also while it runs. Keys are those of `ostler vm create --nic`.

    A running guest must configure the interface itself; static addresses reach it when it next boots.

    \b
    Examples:
      ostler nic add web-1 acme-lan
      ostler nic add web-1 acme-lan,address=192.0.2.10/24
    """
    request = pb.AddNicRequest(request_id=call.request_id, vm=vm, nic=nic, validate_only=call.dry_run)
    finish(app, app.client.vms.AddNic(request), VIEW, pb.Vm(), call)


@command.command("remove")
@click.argument("vm", type=VM)
@click.argument("mac")
@operation_options()
@pass_app
def remove(app: App, vm: str, mac: str, call: CallOptions) -> None:
    """Removes a network interface from a VM, also while it runs.

    MAC is the interface's address; `ostler vm show VM` lists them.

    \b
    Example:
      ostler nic remove web-1 52:54:00:12:34:56
    """
    request = pb.RemoveNicRequest(request_id=call.request_id, vm=vm, mac=mac, validate_only=call.dry_run)
    finish(app, app.client.vms.RemoveNic(request), VIEW, pb.Vm(), call)


@command.command("link")
@click.argument("vm", type=VM)
@click.argument("mac")
@click.argument("state", type=click.Choice(["up", "down"]))
@operation_options()
@pass_app
def link(app: App, vm: str, mac: str, state: str, call: CallOptions) -> None:
    """Sets an interface's link up or down, also while the VM runs.

    The guest of a link that is down sees an interface without a cable. It stays down through restarts and migrations.

    \b
    Example:
      ostler nic link web-1 52:54:00:12:34:56 down
    """
    request = pb.SetNicLinkRequest(
        request_id=call.request_id, vm=vm, mac=mac, up=state == "up", validate_only=call.dry_run
    )
    finish(app, app.client.vms.SetNicLink(request), VIEW, pb.Vm(), call)
