"""`ostler snapshot`."""

from __future__ import annotations

import click
from ostler.control.v1 import snapshot_pb2 as pb
from ostler.control.v1 import volume_pb2
from ostler.types.v1.volume_pb2 import ENCRYPT_FORMAT_LUKS

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.commands._snapshot_schedule import schedule
from ostler_control.cli.commands._volume_view import VIEW as VOLUME_VIEW
from ostler_control.cli.consistency import consistency
from ostler_control.cli.finish import finish
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ACCOUNT, POOL, SNAPSHOT, VOLUME
from ostler_control.cli.options import (
    CallOptions,
    confirm,
    limit_option,
    list_options,
    operation_options,
    output_option,
    yes_option,
)
from ostler_control.cli.output import Listing, View, print_list, print_one

VIEW = View[pb.Snapshot](
    "snapshot",
    columns=[
        ("name", lambda s: s.name),
        ("state", lambda s: text.enum_of(s, "state")),
        ("volume", lambda s: s.volume_name),
        ("size", lambda s: text.size(s.size_bytes)),
        ("encrypted", lambda s: text.yes(s.encrypt_format == ENCRYPT_FORMAT_LUKS)),
        ("pool", lambda s: s.pool_name),
        ("taken", lambda s: text.when(s, "create_time")),
    ],
    details=[
        ("reason", lambda s: s.state_reason),
        ("account", lambda s: s.account_name),
        ("VM ran", lambda s: text.yes(s.online)),
        ("consistency", consistency),
        ("format", lambda s: text.enum_of(s, "format")),
        ("encryption", lambda s: text.enum_of(s, "encrypt_format")),
        ("key version", lambda s: s.key_version),
        ("schedule", lambda s: s.schedule_id),
        ("VM snapshot", lambda s: s.vm_snapshot_name),
        ("volume id", lambda s: s.volume_id),
        ("labels", lambda s: labels_joined(s.labels)),
        ("id", lambda s: s.id),
    ],
)


@click.group(cls=Noun)
def command() -> None:
    """Volume snapshots: create, revert, schedule."""


@command.command("create")
@click.argument("volume", type=VOLUME)
@click.option("--name", default="", help="Name.  [default: the volume's and the time, UTC]")
@click.option("--pool", type=POOL, default="", help="Pool to hold it.  [default: the volume's]")
@operation_options()
@pass_app
def create(app: App, volume: str, name: str, pool: str, call: CallOptions) -> None:
    """Creates a snapshot of a volume, even while its VM runs.

    It is a whole copy of one moment, as a power cut would leave it. Of an encrypted volume it is encrypted too, under a
    key of its own. The volume and its VM are busy until it is taken; the guest goes on meanwhile.

    \b
    Example:
      ostler snapshot create data-1 --name before-upgrade
    """
    request = pb.CreateSnapshotRequest(
        request_id=call.request_id, volume=volume, name=name, pool=pool, validate_only=call.dry_run
    )
    finish(app, app.client.snapshots.CreateSnapshot(request), VIEW, pb.Snapshot(), call)


@command.command("list")
@click.option("--volume", type=VOLUME, default="", help="Only those of this volume; for a deleted volume, its id.")
@click.option("--account", type=ACCOUNT, default="", help="Only those of this account.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, volume: str, account: str, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists snapshots, newest first.

    \b
    Example:
      ostler snapshot list --volume data-1
    """
    request = pb.ListSnapshotsRequest(volume=volume, account=account, selector=selector)
    print_list(VIEW, pages(app.client.snapshots.ListSnapshots, request, lambda a: a.snapshots, limit), listing)


@command.command("show")
@click.argument("snapshot", type=SNAPSHOT)
@output_option
@pass_app
def show(app: App, snapshot: str, output: str) -> None:
    """Shows one snapshot.

    \b
    Example:
      ostler snapshot show before-upgrade
    """
    print_one(VIEW, app.client.snapshots.GetSnapshot(pb.GetSnapshotRequest(snapshot=snapshot)), output)


@command.command("revert")
@click.argument("snapshot", type=SNAPSHOT)
@yes_option
@operation_options()
@pass_app
def revert(app: App, snapshot: str, yes: bool, call: CallOptions) -> None:
    """Reverts a volume to a snapshot. Its VM must be stopped.

    Everything written since is lost (create a snapshot first if in doubt). The volume gets the snapshot's size too: one
    that was grown since is as small again. It stays encrypted, or plain, as it is now, under a new key. The snapshot
    stays.

    \b
    Example:
      ostler snapshot revert before-upgrade --yes
    """
    if not call.dry_run:
        confirm(f"Revert to snapshot {snapshot} and lose everything written to the volume since?", yes)
    request = pb.RevertVolumeRequest(request_id=call.request_id, snapshot=snapshot, validate_only=call.dry_run)
    finish(app, app.client.snapshots.RevertVolume(request), VOLUME_VIEW, volume_pb2.Volume(), call)


@command.command("delete")
@click.argument("snapshot", type=SNAPSHOT)
@yes_option
@operation_options()
@pass_app
def delete(app: App, snapshot: str, yes: bool, call: CallOptions) -> None:
    """Deletes a snapshot with its key. The volume is not changed.

    \b
    Example:
      ostler snapshot delete before-upgrade --yes
    """
    if not call.dry_run:
        confirm(f"Delete snapshot {snapshot} and everything in it?", yes)
    request = pb.DeleteSnapshotRequest(request_id=call.request_id, snapshot=snapshot, validate_only=call.dry_run)
    finish(app, app.client.snapshots.DeleteSnapshot(request), VIEW, pb.Snapshot(), call, gone=True)


@command.command("forget")
@click.argument("snapshot", type=SNAPSHOT)
@click.option("--dry-run", is_flag=True, help="Only check whether it can be forgotten.")
@yes_option
@pass_app
def forget(app: App, snapshot: str, dry_run: bool, yes: bool) -> None:
    """Forgets a snapshot whose pool is lost for good. Its content and its key are lost with it.

    Refused while any host reaches the pool: then use `ostler snapshot delete`. Admins only.

    \b
    Example:
      ostler snapshot forget before-upgrade --dry-run
    """
    if not dry_run:
        confirm(f"Forget snapshot {snapshot}, so that nothing can ever open it again?", yes)
    answer = app.client.snapshots.ForgetSnapshot(pb.ForgetSnapshotRequest(snapshot=snapshot, validate_only=dry_run))
    click.echo(f"snapshot {answer.name} {'would be' if dry_run else 'is'} forgotten")


command.add_command(schedule)


command.add_command(label_command("snapshot"))
