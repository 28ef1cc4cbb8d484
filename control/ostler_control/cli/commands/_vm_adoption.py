"""`ostler vm adopt`, `ostler vm unmanage`: VMs come from plain libvirt, and go back to it."""

from __future__ import annotations

import click
from ostler.control.v1 import vm_pb2 as pb

from ostler_control.cli.app import App, pass_app
from ostler_control.cli.finish import finish
from ostler_control.cli.names import ACCOUNT, HOST, SERVICE_OFFERING, VM
from ostler_control.cli.options import CallOptions, confirm, operation_options, yes_option
from ostler_control.cli.output import View


def adopt_command(view: View[pb.Vm]) -> click.Command:
    """view: how the VM is printed."""

    @click.command("adopt")
    @click.argument("host", type=HOST)
    @click.argument("domain")
    @click.option("--name", default="", help="Name.  [default: DOMAIN's]")
    @click.option(
        "--offering", type=SERVICE_OFFERING, default="", help="Service offering.  [default: the smallest that fits]"
    )
    @click.option("--account", type=ACCOUNT, default="", help="Owner.  [default: your account]")
    @click.option("--accept-losses", is_flag=True, help="Adopt it although something is lost when it starts next time.")
    @operation_options()
    @pass_app
    def adopt(
        app: App,
        host: str,
        domain: str,
        name: str,
        offering: str,
        account: str,
        accept_losses: bool,
        call: CallOptions,
    ) -> None:
        """Takes over a VM that another tool has defined on HOST. A running VM runs on.

        DOMAIN is libvirt's name or the UUID; `ostler host show HOST` lists those that Ostler does not manage. The disks
        must be files on pools that Ostler knows, and become volumes. What cannot be mapped is listed: either it refuses
        the VM, or --accept-losses adopts it without that. --dry-run only checks.

        \b
        Examples:
          ostler vm adopt h1 web --dry-run
          ostler vm adopt h1 web --name web-1 --offering medium
        """
        request = pb.AdoptVmRequest(
            request_id=call.request_id,
            host=host,
            vm=domain,
            name=name,
            service_offering=offering,
            account=account,
            accept_losses=accept_losses,
            validate_only=call.dry_run,
        )
        finish(app, app.client.vms.AdoptVm(request), view, pb.Vm(), call)

    return adopt


def unmanage_command(view: View[pb.Vm]) -> click.Command:
    """view: how the VM is printed."""

    @click.command("unmanage")
    @click.argument("vm", type=VM)
    @yes_option
    @operation_options()
    @pass_app
    def unmanage(app: App, vm: str, yes: bool, call: CallOptions) -> None:
        """Hands a VM back to plain libvirt. A running VM runs on.

        Its definition and its disks stay on its host, and Ostler forgets them; `ostler vm adopt` takes it over again.
        Refused: a VM with encrypted volumes (their keys stay in Ostler), with snapshots, or on a storage array.

        \b
        Example:
          ostler vm unmanage web-1 --yes
        """
        if not call.dry_run:
            confirm(f"Hand VM {vm} back to libvirt and forget it?", yes)
        request = pb.UnmanageVmRequest(request_id=call.request_id, vm=vm, validate_only=call.dry_run)
        finish(app, app.client.vms.UnmanageVm(request), view, pb.Vm(), call, gone=True, done="unmanaged")

    return unmanage
