"""`ostler vm snapshot`."""

from __future__ import annotations

from collections.abc import Sequence

import click
from ostler.control.v1 import vm_pb2
from ostler.control.v1 import vm_snapshot_pb2 as pb
from ostler.types.v1.volume_pb2 import ENCRYPT_FORMAT_LUKS

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.commands._vm_snapshot_schedule import schedule
from ostler_control.cli.commands._vm_view import VIEW as VM_VIEW
from ostler_control.cli.consistency import consistency
from ostler_control.cli.finish import finish
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ACCOUNT, VM, VM_SNAPSHOT
from ostler_control.cli.options import (
    CallOptions,
    confirm,
    limit_option,
    list_options,
    operation_options,
    output_option,
    yes_option,
)
from ostler_control.cli.output import Listing, Section, View, print_list, print_one


def _disks(snapshot: pb.VmSnapshot) -> Sequence[Sequence[str]]:
    return [
        ("slot", "volume", "size", "encrypted", "pool", "snapshot"),
        *(
            (
                str(d.slot),
                d.volume_name,
                text.size(d.size_bytes),
                text.yes(d.encrypt_format == ENCRYPT_FORMAT_LUKS),
                d.pool_name,
                d.snapshot_name or "(lost)",
            )
            for d in snapshot.disks
        ),
    ]


def _memory(snapshot: pb.VmSnapshot) -> str:
    """The space that it takes; "no": there is none."""
    if not snapshot.HasField("memory"):
        return "no"
    return text.size(snapshot.memory.used_bytes or snapshot.memory.size_bytes)


VIEW = View[pb.VmSnapshot](
    "VM snapshot",
    columns=[
        ("name", lambda s: s.name),
        ("state", lambda s: text.enum_of(s, "state")),
        ("VM", lambda s: s.vm_name),
        ("disks", lambda s: str(len(s.disks))),
        ("size", lambda s: text.size(sum(d.size_bytes for d in s.disks))),
        ("memory", _memory),
        ("taken", lambda s: text.when(s, "create_time")),
    ],
    details=[
        ("reason", lambda s: s.state_reason),
        ("account", lambda s: s.account_name),
        ("VM ran", lambda s: text.yes(s.online)),
        ("consistency", consistency),
        ("memory in pool", lambda s: s.memory.pool_name),
        ("VM id", lambda s: s.vm_id),
        ("labels", lambda s: labels_joined(s.labels)),
        ("id", lambda s: s.id),
    ],
    sections=[Section("Disks", _disks)],
)


@click.group("snapshot", cls=Noun)
def snapshot_group() -> None:
    """Snapshots of all disks of a VM at one moment, and schedules of them."""


@snapshot_group.command("create")
@click.argument("vm", type=VM)
@click.option("--name", default="", help="Name.  [default: the VM's and the time, UTC]")
@click.option("--memory", is_flag=True, help="With the memory of the running VM, encrypted.")
@operation_options()
@pass_app
def create(app: App, vm: str, name: str, memory: bool, call: CallOptions) -> None:
    """Creates a snapshot of all disks of a VM, even while it runs.

    All disks are of one moment. If a guest agent answers, file systems are frozen at that moment; otherwise the disks
    are as a power cut would leave them. Each disk's snapshot is a whole copy in the pool of its volume, encrypted if
    the volume is. The VM is busy until it is taken; the guest goes on meanwhile.

    With --memory the guest stands still while its memory is written, and a revert continues it from there.

    \b
    Example:
      ostler vm snapshot create web-1 --name before-upgrade
      ostler vm snapshot create web-1 --memory
    """
    request = pb.CreateVmSnapshotRequest(
        request_id=call.request_id, vm=vm, name=name, memory=memory, validate_only=call.dry_run
    )
    finish(app, app.client.vm_snapshots.CreateVmSnapshot(request), VIEW, pb.VmSnapshot(), call)


@snapshot_group.command("list")
@click.option("--vm", type=VM, default="", help="Only those of this VM; for a deleted VM, its id.")
@click.option("--account", type=ACCOUNT, default="", help="Only those of this account.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, vm: str, account: str, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists snapshots of VMs, newest first.

    \b
    Example:
      ostler vm snapshot list --vm web-1
    """
    request = pb.ListVmSnapshotsRequest(vm=vm, account=account, selector=selector)
    found = pages(app.client.vm_snapshots.ListVmSnapshots, request, lambda a: a.vm_snapshots, limit)
    print_list(VIEW, found, listing)


@snapshot_group.command("show")
@click.argument("snapshot", type=VM_SNAPSHOT)
@output_option
@pass_app
def show(app: App, snapshot: str, output: str) -> None:
    """Shows one snapshot of a VM and its disks.

    \b
    Example:
      ostler vm snapshot show before-upgrade
    """
    print_one(VIEW, app.client.vm_snapshots.GetVmSnapshot(pb.GetVmSnapshotRequest(vm_snapshot=snapshot)), output)


@snapshot_group.command("revert")
@click.argument("snapshot", type=VM_SNAPSHOT)
@click.option("--disks-only", is_flag=True, help="Leave its memory aside: the VM stays stopped.")
@yes_option
@operation_options()
@pass_app
def revert(app: App, snapshot: str, disks_only: bool, yes: bool, call: CallOptions) -> None:
    """Reverts all disks of a VM to a snapshot. The VM must be stopped.

    Everything written since is lost (create a snapshot first if in doubt). All disks go back together, or none. Each
    gets the snapshot's size, and stays encrypted, or plain, as it is now, under a new key. The snapshot stays.

    If the snapshot has memory, the VM starts, and its guest continues where it was.

    \b
    Example:
      ostler vm snapshot revert before-upgrade --yes
      ostler vm snapshot revert before-upgrade --disks-only
    """
    if not call.dry_run:
        confirm(f"Revert to snapshot {snapshot} and lose everything written to the VM's disks since?", yes)
    request = pb.RevertVmRequest(
        request_id=call.request_id, vm_snapshot=snapshot, disks_only=disks_only, validate_only=call.dry_run
    )
    finish(app, app.client.vm_snapshots.RevertVm(request), VM_VIEW, vm_pb2.Vm(), call)


@snapshot_group.command("delete")
@click.argument("snapshot", type=VM_SNAPSHOT)
@yes_option
@operation_options()
@pass_app
def delete(app: App, snapshot: str, yes: bool, call: CallOptions) -> None:
    """Deletes a snapshot of a VM, of all its disks, with their keys. The VM is not changed.

    \b
    Example:
      ostler vm snapshot delete before-upgrade --yes
    """
    if not call.dry_run:
        confirm(f"Delete snapshot {snapshot} and everything in it?", yes)
    request = pb.DeleteVmSnapshotRequest(request_id=call.request_id, vm_snapshot=snapshot, validate_only=call.dry_run)
    finish(app, app.client.vm_snapshots.DeleteVmSnapshot(request), VIEW, pb.VmSnapshot(), call, gone=True)


snapshot_group.add_command(schedule)
snapshot_group.add_command(label_command("vm snapshot"))
