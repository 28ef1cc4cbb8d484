"""`ostler vm iso`."""

from __future__ import annotations

from collections.abc import Sequence

import click
from ostler.control.v1 import vm_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.finish import finish
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ISO, VM
from ostler_control.cli.options import CallOptions, operation_options
from ostler_control.cli.output import Section, View


def drives(vm: pb.Vm) -> Sequence[Sequence[str]]:
    """The section of a VM that says what is in its CD-ROM drives."""
    rows = [(str(c.drive), c.iso_name, text.yes(c.boot_first)) for c in vm.cdroms]
    return [("drive", "iso", "boots first"), *rows]


VIEW = View[pb.Vm](
    "vm",
    columns=[
        ("name", lambda v: v.name),
        ("state", lambda v: text.enum_of(v, "state")),
        ("isos", lambda v: text.joined(c.iso_name for c in v.cdroms)),
    ],
    sections=[Section("CD-ROM drives", drives)],
)


@click.group("iso", cls=Noun)
def iso_group() -> None:
    """CD-ROM drives of VMs: attach and eject ISO images."""


@iso_group.command("attach")
@click.argument("vm", type=VM)
@click.argument("iso", type=ISO)
@click.option("--boot-first", is_flag=True, help="Boot from it before the disks at the next start.")
@operation_options()
@pass_app
def attach(app: App, vm: str, iso: str, boot_first: bool, call: CallOptions) -> None:
    """Puts an ISO image into a drive of a VM, running or stopped.

    Without --boot-first, the VM boots from it only while it finds nothing bootable on its disks. The order of a running
    VM changes when it is stopped and started, not when its guest reboots.

    \b
    Examples:
      ostler vm iso attach web-1 virtio-win
      ostler vm iso attach web-1 rescue --boot-first
    """
    request = pb.AttachIsoRequest(
        request_id=call.request_id, vm=vm, iso=iso, boot_first=boot_first, validate_only=call.dry_run
    )
    finish(app, app.client.vms.AttachIso(request), VIEW, pb.Vm(), call)


@iso_group.command("eject")
@click.argument("vm", type=VM)
@click.argument("iso", type=ISO, default="")
@operation_options()
@pass_app
def eject(app: App, vm: str, iso: str, call: CallOptions) -> None:
    """Takes an ISO image out of its CD-ROM drive.

    This works against a running guest as well: one that has mounted the image then reads errors. ISO may be left out
    when the VM has only one.

    \b
    Example:
      ostler vm iso eject web-1
    """
    request = pb.EjectIsoRequest(request_id=call.request_id, vm=vm, iso=iso, validate_only=call.dry_run)
    finish(app, app.client.vms.EjectIso(request), VIEW, pb.Vm(), call)
