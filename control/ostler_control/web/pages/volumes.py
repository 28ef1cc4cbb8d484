"""The list of volumes, a volume's own page, and what can be done to it."""

from __future__ import annotations

from google.longrunning.operations_pb2 import Operation
from ostler.control.v1 import volume_pb2 as pb
from ostler.control.v1.snapshot_pb2 import CreateSnapshotRequest, ListSnapshotsRequest
from ostler.types.v1.volume_pb2 import ENCRYPT_FORMAT_NONE
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli import text
from ostler_control.cli.app import App
from ostler_control.cli.commands import snapshot
from ostler_control.cli.commands._volume_view import VIEW
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console
from ostler_control.web.creations import size_of
from ostler_control.web.forms import Call, Option
from ostler_control.web.labels import label_action
from ostler_control.web.lists import render_list
from ostler_control.web.objects import render_object
from ostler_control.web.pages import snapshots
from ostler_control.web.pages.volume_creation import CREATION

HOW = ("encrypted", "plain")
_READY = frozenset({"ready"})


def volumes(console: Console, request: Request) -> Response:
    """The page of volumes."""
    filters = tables.Filters(
        request,
        ("vm", "VM"),
        ("pool", "Pool"),
        ("account", "Account"),
        ("selector", "Labels"),
        encryption=HOW,
        flags=("encryption",),
    )
    how = filters["encryption"]
    wanted = pb.ListVolumesRequest(
        page_size=tables.PAGE_SIZE,
        page_token=filters.page,
        vm=filters["vm"],
        pool=filters["pool"],
        account=filters["account"],
        selector=filters["selector"],
        encrypted=how == "encrypted" if how in HOW else None,
    )
    answer = console.app.client.volumes.ListVolumes(wanted)
    following = filters.next(answer.next_page_token)
    table = tables.table(VIEW, answer.volumes, "Volumes", lambda v: tables.path("volumes", v.id), next=following)
    buttons = CREATION.buttons(console)
    return render_list(console, request, ("volume", "list"), filters, table, buttons=buttons)


def one_volume(console: Console, request: Request) -> Response:
    """The page of a volume."""
    client = console.app.client
    found = client.volumes.GetVolume(pb.GetVolumeRequest(volume=request.path_params["volume"]))
    kept = client.snapshots.ListSnapshots(ListSnapshotsRequest(volume=found.id, page_size=tables.PAGE_SIZE))
    target = _target(found)
    links = [(f"VM {found.vm_name}", tables.path("vms", found.vm_id))] if found.vm_id else []
    return render_object(
        console,
        request,
        target,
        ("volume", "show", found.name),
        VIEW,
        found,
        notice=found.state_reason,
        buttons=ACTIONS.buttons(console, target),
        links=[*links, ("Its operations", tables.address("/operations", {"resource": found.id}))],
        more=[tables.table(snapshot.VIEW, kept.snapshots, "Snapshots", snapshots.href)],
    )


def _target(found: pb.Volume) -> Target:
    traits = {
        "attached" if found.vm_id else "detached",
        "plain" if found.encrypt_format == ENCRYPT_FORMAT_NONE else "encrypted",
        "root" if found.root else "data",
    }
    state, href = text.enum_of(found, "state"), tables.path("volumes", found.id)
    return Target(found.id, found.name, "volume", state, "/volumes", href, frozenset(traits))


def _find(app: App, volume: str) -> Target:
    return _target(app.client.volumes.GetVolume(pb.GetVolumeRequest(volume=volume)))


def _snapshot(app: App, call: Call) -> Operation:
    return app.client.snapshots.CreateSnapshot(
        CreateSnapshotRequest(request_id=call.request_id, volume=call.target, name=call.text("name"))
    )


def _grow(app: App, call: Call) -> Operation:
    return app.client.volumes.GrowVolume(
        pb.GrowVolumeRequest(request_id=call.request_id, volume=call.target, size_bytes=size_of(call, "size"))
    )


def _attach(app: App, call: Call) -> Operation:
    return app.client.volumes.AttachVolume(
        pb.AttachVolumeRequest(request_id=call.request_id, volume=call.target, vm=call.text("vm"))
    )


def _detach(app: App, call: Call) -> Operation:
    return app.client.volumes.DetachVolume(pb.DetachVolumeRequest(request_id=call.request_id, volume=call.target))


def _encrypt(app: App, call: Call) -> Operation:
    return app.client.volumes.EncryptVolume(pb.EncryptVolumeRequest(request_id=call.request_id, volume=call.target))


def _rekey(app: App, call: Call) -> Operation:
    return app.client.volumes.RekeyVolume(
        pb.RekeyVolumeRequest(request_id=call.request_id, volume=call.target, deep=call.flag("deep"))
    )


def _delete(app: App, call: Call) -> Operation:
    return app.client.volumes.DeleteVolume(pb.DeleteVolumeRequest(request_id=call.request_id, volume=call.target))


ACTIONS = Actions(
    "/volumes",
    _find,
    (
        Action(
            "snapshot",
            ("snapshot", "create"),
            "Snapshot",
            "Take a snapshot of volume {name}? The VM goes on meanwhile.",
            _snapshot,
            _READY,
            (Option("name", "Name (empty: the volume's and the time)"),),
        ),
        Action(
            "grow",
            ("volume", "grow"),
            "Grow",
            "Grow volume {name}, even while its VM runs? It cannot shrink again.",
            _grow,
            _READY,
            (Option("size", "New size, such as 40GiB", is_argument=True),),
        ),
        Action(
            "attach",
            ("volume", "attach"),
            "Attach",
            "Attach volume {name} to a VM, even while it runs?",
            _attach,
            _READY,
            (Option("vm", "VM", is_argument=True),),
            needs=frozenset({"detached"}),
        ),
        Action(
            "detach",
            ("volume", "detach"),
            "Detach",
            "Detach volume {name} from its VM, even while it runs?",
            _detach,
            _READY,
            needs=frozenset({"attached", "data"}),
        ),
        Action(
            "encrypt",
            ("volume", "encrypt"),
            "Encrypt",
            "Encrypt volume {name}, even while its VM runs? It is written into a new file. Deleting the plain one does "
            "not wipe it.",
            _encrypt,
            _READY,
            needs=frozenset({"plain"}),
        ),
        Action(
            "rekey",
            ("volume", "rekey"),
            "Rekey",
            "Change the passphrase of volume {name}? Its VM must be stopped, unless the volume is rewritten.",
            _rekey,
            _READY,
            (Option("deep", "Rewrite the volume under a new master key", is_flag=True),),
            needs=frozenset({"encrypted"}),
        ),
        label_action("volume"),
        Action(
            "delete",
            ("volume", "delete"),
            "Delete",
            "Delete volume {name} with its content and its key?",
            _delete,
            _READY | frozenset({"failed"}),
            needs=frozenset({"detached"}),
            fixed=("--yes",),
            is_dangerous=True,
        ),
    ),
)
