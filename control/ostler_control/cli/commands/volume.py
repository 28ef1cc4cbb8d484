"""`ostler volume`."""

from __future__ import annotations

import click
from ostler.control.v1 import volume_pb2 as pb
from ostler_common.errors import OstlerError
from ostler_common.text import printable

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.commands import _volume_changes, _volume_files
from ostler_control.cli.commands._volume_view import VIEW
from ostler_control.cli.finish import finish
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ACCOUNT, DISK_OFFERING, POOL, SNAPSHOT, VM, VOLUME, ZONE
from ostler_control.cli.options import (
    SIZE,
    CallOptions,
    confirm,
    limit_option,
    list_options,
    operation_options,
    output_option,
    yes_option,
)
from ostler_control.cli.output import Listing, print_list, print_one


@click.group(cls=Noun)
def command() -> None:
    """Volumes: create, grow, attach, encrypt."""


@command.command("create")
@click.argument("name")
@click.option("--offering", type=DISK_OFFERING, default="", help="Disk offering; optional with --snapshot.")
@click.option("--size", type=SIZE, default=0, help="Size, e.g. 20GiB; only for an offering without a size.")
@click.option("--snapshot", type=SNAPSHOT, default="", help="Snapshot to copy the content from.")
@click.option("--pool", type=POOL, default="", help="Pool.  [default: chosen]")
@click.option("--account", type=ACCOUNT, default="", help="Owner.  [default: your account]")
@click.option("--zone", type=ZONE, default="", help="Zone.  [default: any]")
@operation_options()
@pass_app
def create(
    app: App,
    name: str,
    offering: str,
    size: int,
    snapshot: str,
    pool: str,
    account: str,
    zone: str,
    call: CallOptions,
) -> None:
    """Creates a data volume, empty or from a snapshot.

    From a snapshot it is encrypted, under a key of its own, if the snapshot is; its size is the snapshot's unless you
    ask for more.

    \b
    Example:
      ostler volume create data-1 --offering secret --size 20GiB
      ostler volume create data-2 --snapshot before-upgrade
    """
    if not offering and not snapshot:
        raise click.UsageError("give --offering, or --snapshot")
    request = pb.CreateVolumeRequest(
        request_id=call.request_id,
        name=name,
        disk_offering=offering,
        size_bytes=size,
        pool=pool,
        account=account,
        zone=zone,
        snapshot=snapshot,
        validate_only=call.dry_run,
    )
    finish(app, app.client.volumes.CreateVolume(request), VIEW, pb.Volume(), call)


@command.command("list")
@click.option("--account", type=ACCOUNT, default="", help="Only those of this account.")
@click.option("--vm", type=VM, default="", help="Only those of this VM.")
@click.option("--pool", type=POOL, default="", help="Only those in this pool.")
@click.option("--encrypted/--plain", default=None, help="Only encrypted, or only plain ones.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(
    app: App,
    account: str,
    vm: str,
    pool: str,
    encrypted: bool | None,
    selector: str,
    limit: int | None,
    listing: Listing,
) -> None:
    """Lists volumes.

    \b
    Example:
      ostler volume list --vm web-1
    """
    request = pb.ListVolumesRequest(account=account, vm=vm, pool=pool, encrypted=encrypted, selector=selector)
    print_list(VIEW, pages(app.client.volumes.ListVolumes, request, lambda a: a.volumes, limit), listing)


@command.command("show")
@click.argument("volume", type=VOLUME)
@click.option(
    "--read-file/--no-read-file", default=None, help="Read the file's header on a host.  [default: if possible]"
)
@output_option
@pass_app
def show(app: App, volume: str, read_file: bool | None, output: str) -> None:
    """Shows one volume. A host reads from the file's header whether it is encrypted.

    \b
    Example:
      ostler volume show data-1
    """
    print_one(VIEW, _get(app, volume, read_file), output)


def _get(app: App, volume: str, read_file: bool | None) -> pb.Volume:
    """The volume; read_file None: with its file's header if that can be read, and a word on stderr if not."""
    try:
        return app.client.volumes.GetVolume(pb.GetVolumeRequest(volume=volume, read_file=read_file is not False))
    except OstlerError as failure:
        if read_file is not None:
            raise
        error = failure
    row = app.client.volumes.GetVolume(pb.GetVolumeRequest(volume=volume))
    click.echo(printable(f"the file's header could not be read: {error.message}"), err=True)
    return row


@command.command("grow")
@click.argument("volume", type=VOLUME)
@click.argument("size", type=SIZE)
@operation_options()
@pass_app
def grow(app: App, volume: str, size: int, call: CallOptions) -> None:
    """Grows a volume to SIZE, even while its VM runs.

    \b
    Example:
      ostler volume grow data-1 40GiB
    """
    request = pb.GrowVolumeRequest(
        request_id=call.request_id, volume=volume, size_bytes=size, validate_only=call.dry_run
    )
    finish(app, app.client.volumes.GrowVolume(request), VIEW, pb.Volume(), call)


@command.command("attach")
@click.argument("volume", type=VOLUME)
@click.argument("vm", type=VM)
@operation_options()
@pass_app
def attach(app: App, volume: str, vm: str, call: CallOptions) -> None:
    """Attaches a volume to a VM, even while it runs.

    \b
    Example:
      ostler volume attach data-1 web-1
    """
    request = pb.AttachVolumeRequest(request_id=call.request_id, volume=volume, vm=vm, validate_only=call.dry_run)
    finish(app, app.client.volumes.AttachVolume(request), VIEW, pb.Volume(), call)


@command.command("detach")
@click.argument("volume", type=VOLUME)
@operation_options()
@pass_app
def detach(app: App, volume: str, call: CallOptions) -> None:
    """Detaches a volume from its VM, even while it runs.

    \b
    Example:
      ostler volume detach data-1
    """
    request = pb.DetachVolumeRequest(request_id=call.request_id, volume=volume, validate_only=call.dry_run)
    finish(app, app.client.volumes.DetachVolume(request), VIEW, pb.Volume(), call)


@command.command("copy")
@click.argument("volume", type=VOLUME)
@click.argument("name")
@click.option("--pool", type=POOL, default="", help="Pool.  [default: the volume's]")
@operation_options()
@pass_app
def copy(app: App, volume: str, name: str, pool: str, call: CallOptions) -> None:
    """Copies a volume into a new one, even while its VM runs.

    Of a running VM's disk it has what was there at one moment, as after a power cut. The copy of an encrypted volume
    is encrypted under a key of its own.

    \b
    Example:
      ostler volume copy data-1 data-1-test
    """
    request = pb.CopyVolumeRequest(
        request_id=call.request_id, volume=volume, name=name, pool=pool, validate_only=call.dry_run
    )
    finish(app, app.client.volumes.CopyVolume(request), VIEW, pb.Volume(), call)


@command.command("delete")
@click.argument("volume", type=VOLUME)
@yes_option
@operation_options()
@pass_app
def delete(app: App, volume: str, yes: bool, call: CallOptions) -> None:
    """Deletes a detached volume with its content and its key.

    \b
    Example:
      ostler volume delete data-1 --yes
    """
    if not call.dry_run:
        confirm(f"Delete volume {volume} and everything in it?", yes)
    request = pb.DeleteVolumeRequest(request_id=call.request_id, volume=volume, validate_only=call.dry_run)
    finish(app, app.client.volumes.DeleteVolume(request), VIEW, pb.Volume(), call, gone=True)


@command.command("forget")
@click.argument("volume", type=VOLUME)
@click.option("--dry-run", is_flag=True, help="Only show what would be lost.")
@yes_option
@pass_app
def forget(app: App, volume: str, dry_run: bool, yes: bool) -> None:
    """Forgets a volume whose pool is lost for good. Its content and its key are lost with it.

    Refused while any host reaches the pool: then use `ostler volume delete`. Snapshots of the volume in lost pools are
    forgotten too. Admins only.

    \b
    Example:
      ostler volume forget data-1 --dry-run
    """
    if not dry_run:
        confirm(f"Forget volume {volume}, so that nothing can ever open it again?", yes)
    answer = app.client.volumes.ForgetVolume(pb.ForgetVolumeRequest(volume=volume, validate_only=dry_run))
    state = "would be forgotten" if dry_run else "is forgotten"
    click.echo(f"volume {answer.volume.name} ({text.size(answer.volume.size_bytes)}) {state}")
    if answer.lost_snapshots:
        click.echo(f"with its snapshots: {', '.join(answer.lost_snapshots)}")


for verb in (
    _volume_files.download,
    _volume_files.upload,
    _volume_changes.rekey,
    _volume_changes.encrypt,
    _volume_changes.migrate,
    _volume_changes.limit,
    _volume_changes.change_offering,
):
    command.add_command(verb)


command.add_command(label_command("volume"))
