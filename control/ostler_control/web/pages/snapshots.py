"""A snapshot's page, and what can be done to it."""

from __future__ import annotations

from google.longrunning.operations_pb2 import Operation
from ostler.control.v1 import snapshot_pb2 as pb
from ostler.control.v1.volume_pb2 import CreateVolumeRequest
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli import text
from ostler_control.cli.app import App
from ostler_control.cli.commands import snapshot
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console
from ostler_control.web.forms import Call, Option
from ostler_control.web.labels import label_action
from ostler_control.web.objects import render_object

_READY = frozenset({"ready"})


def one_snapshot(console: Console, request: Request) -> Response:
    """The page of a snapshot."""
    wanted = pb.GetSnapshotRequest(snapshot=request.path_params["snapshot"])
    found = console.app.client.snapshots.GetSnapshot(wanted)
    target = _target(found)
    volume = [(f"Volume {found.volume_name}", tables.path("volumes", found.volume_id))] if found.volume_name else []
    if found.vm_snapshot_id:
        volume.append((f"VM snapshot {found.vm_snapshot_name}", tables.path("vm-snapshots", found.vm_snapshot_id)))
    return render_object(
        console,
        request,
        target,
        ("snapshot", "show", found.name),
        snapshot.VIEW,
        found,
        notice=found.state_reason,
        buttons=ACTIONS.buttons(console, target),
        links=[*volume, ("Its operations", tables.address("/operations", {"resource": found.id}))],
    )


def href(found: pb.Snapshot) -> str:
    """Address of a snapshot's page."""
    return tables.path("snapshots", found.id)


def _target(found: pb.Snapshot) -> Target:
    traits = frozenset(
        [*(["revertible"] if found.volume_name else []), *([] if found.vm_snapshot_id else ["on its own"])]
    )
    return Target(found.id, found.name, "snapshot", text.enum_of(found, "state"), "/volumes", href(found), traits)


def _find(app: App, id_: str) -> Target:
    return _target(app.client.snapshots.GetSnapshot(pb.GetSnapshotRequest(snapshot=id_)))


def _revert(app: App, call: Call) -> Operation:
    return app.client.snapshots.RevertVolume(pb.RevertVolumeRequest(request_id=call.request_id, snapshot=call.target))


def _copy(app: App, call: Call) -> Operation:
    return app.client.volumes.CreateVolume(
        CreateVolumeRequest(request_id=call.request_id, name=call.text("name"), snapshot=call.target)
    )


def _delete(app: App, call: Call) -> Operation:
    return app.client.snapshots.DeleteSnapshot(
        pb.DeleteSnapshotRequest(request_id=call.request_id, snapshot=call.target)
    )


ACTIONS = Actions(
    "/snapshots",
    _find,
    (
        Action(
            "revert",
            ("snapshot", "revert"),
            "Revert the volume",
            "Revert the volume to snapshot {name}, and lose everything written since? Its VM must be stopped.",
            _revert,
            _READY,
            needs=frozenset({"revertible"}),
            fixed=("--yes",),
            is_dangerous=True,
        ),
        Action(
            "copy",
            ("volume", "create"),
            "Create a volume",
            "Create a volume with the content of snapshot {name}?",
            _copy,
            _READY,
            (Option("name", "Name of the volume", is_argument=True),),
            target_flag="--snapshot",
        ),
        label_action("snapshot"),
        Action(
            "delete",
            ("snapshot", "delete"),
            "Delete",
            "Delete snapshot {name} with its key? The volume is not changed.",
            _delete,
            _READY | frozenset({"failed"}),
            needs=frozenset({"on its own"}),
            fixed=("--yes",),
            is_dangerous=True,
        ),
    ),
)
