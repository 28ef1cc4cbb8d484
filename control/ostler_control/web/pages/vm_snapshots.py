"""The page of a VM's snapshot, and what can be done to it."""

from __future__ import annotations

from google.longrunning.operations_pb2 import Operation
from ostler.control.v1 import vm_snapshot_pb2 as pb
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli import text
from ostler_control.cli.app import App
from ostler_control.cli.commands._vm_snapshot import VIEW
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console
from ostler_control.web.forms import Call, Option
from ostler_control.web.labels import label_action
from ostler_control.web.objects import render_object
from ostler_control.web.tables import Table

MAX_SHOWN = 50
_READY = frozenset({"ready"})


def one_vm_snapshot(console: Console, request: Request) -> Response:
    """The page of a VM's snapshot."""
    found = _get(console.app, request.path_params["vm_snapshot"])
    target = _target(found)
    disks = [
        (f"Snapshot {disk.snapshot_name}", tables.path("snapshots", disk.snapshot_id))
        for disk in found.disks
        if disk.snapshot_id
    ]
    return render_object(
        console,
        request,
        target,
        ("vm", "snapshot", "show", found.name),
        VIEW,
        found,
        notice=found.state_reason,
        buttons=ACTIONS.buttons(console, target),
        links=[
            (f"VM {found.vm_name}", tables.path("vms", found.vm_id)),
            *disks,
            ("Its operations", tables.address("/operations", {"resource": found.id})),
        ],
    )


def table_of(app: App, vm_id: str) -> list[Table]:
    """The newest snapshots of a VM, if it has any."""
    wanted = pb.ListVmSnapshotsRequest(vm=vm_id, page_size=MAX_SHOWN)
    found = app.client.vm_snapshots.ListVmSnapshots(wanted).vm_snapshots
    return [tables.table(VIEW, found, "Snapshots", href)] if found else []


def href(found: pb.VmSnapshot) -> str:
    """Address of the page of a VM's snapshot."""
    return tables.path("vm-snapshots", found.id)


def _get(app: App, id_: str) -> pb.VmSnapshot:
    return app.client.vm_snapshots.GetVmSnapshot(pb.GetVmSnapshotRequest(vm_snapshot=id_))


def _target(found: pb.VmSnapshot) -> Target:
    return Target(found.id, found.name, "VM snapshot", text.enum_of(found, "state"), "/vms", href(found))


def _find(app: App, id_: str) -> Target:
    return _target(_get(app, id_))


def _revert(app: App, call: Call) -> Operation:
    return app.client.vm_snapshots.RevertVm(
        pb.RevertVmRequest(request_id=call.request_id, vm_snapshot=call.target, disks_only=call.flag("disks-only"))
    )


def _delete(app: App, call: Call) -> Operation:
    request = pb.DeleteVmSnapshotRequest(request_id=call.request_id, vm_snapshot=call.target)
    return app.client.vm_snapshots.DeleteVmSnapshot(request)


ACTIONS = Actions(
    "/vm-snapshots",
    _find,
    (
        Action(
            "revert",
            ("vm", "snapshot", "revert"),
            "Revert the VM",
            "Revert all disks of the VM to snapshot {name}, and lose everything written since? The VM must be stopped. "
            "If the snapshot has memory, the guest then continues from it.",
            _revert,
            _READY,
            (Option("disks-only", "Leave its memory aside: the VM stays stopped", is_flag=True),),
            fixed=("--yes",),
            is_dangerous=True,
        ),
        label_action("vm snapshot", "VM snapshot"),
        Action(
            "delete",
            ("vm", "snapshot", "delete"),
            "Delete",
            "Delete snapshot {name} of all disks with their keys? The VM is not changed.",
            _delete,
            _READY | frozenset({"failed"}),
            fixed=("--yes",),
            is_dangerous=True,
        ),
    ),
)
