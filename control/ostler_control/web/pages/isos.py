"""ISO images: an image's own page, and the actions that put one into a VM's drive and take it out."""

from __future__ import annotations

from google.longrunning.operations_pb2 import Operation
from ostler.control.v1 import iso_pb2 as pb
from ostler.control.v1.vm_pb2 import AttachIsoRequest, EjectIsoRequest
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.app import App
from ostler_control.cli.commands import iso
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console
from ostler_control.web.forms import Call, Option
from ostler_control.web.labels import label_action
from ostler_control.web.objects import render_object
from ostler_control.web.tables import Table

MAX_ROWS = 200


def table(app: App) -> Table:
    """The first ISO images."""
    answer = app.client.isos.ListIsos(pb.ListIsosRequest(page_size=MAX_ROWS))
    return tables.table(iso.VIEW, answer.isos, "ISO images", lambda i: tables.path("isos", i.id))


def one_iso(console: Console, request: Request) -> Response:
    """The page of an ISO image."""
    found = _get(console.app, request.path_params["iso"])
    target = _target(found)
    buttons = ACTIONS.buttons(console, target)
    return render_object(console, request, target, ("iso", "show", found.name), iso.VIEW, found, buttons=buttons)


def _get(app: App, name: str) -> pb.Iso:
    return app.client.isos.GetIso(pb.GetIsoRequest(iso=name))


def _target(found: pb.Iso) -> Target:
    return Target(found.id, found.name, "ISO image", "", "/catalog", tables.path("isos", found.id))


def _delete(app: App, call: Call) -> str:
    app.client.isos.DeleteIso(pb.DeleteIsoRequest(iso=call.target))
    return "/catalog"


def _attach(app: App, call: Call) -> Operation:
    return app.client.vms.AttachIso(
        AttachIsoRequest(
            request_id=call.request_id, vm=call.target, iso=call.text("iso"), boot_first=call.flag("boot-first")
        )
    )


def _eject(app: App, call: Call) -> Operation:
    return app.client.vms.EjectIso(EjectIsoRequest(request_id=call.request_id, vm=call.target, iso=call.text("iso")))


ACTIONS = Actions(
    "/isos",
    lambda app, name: _target(_get(app, name)),
    (
        Action(
            "delete",
            ("iso", "delete"),
            "Delete",
            "Delete ISO image {name}? It must be in no VM's drive.",
            _delete,
            fixed=("--yes",),
            is_dangerous=True,
            admins=True,
        ),
        label_action("iso", "ISO image", admins=True),
    ),
)
_STATES = frozenset({"running", "stopped"})
VM_ACTIONS = (
    Action(
        "attach-iso",
        ("vm", "iso", "attach"),
        "Attach ISO image",
        "Put an ISO image into a CD-ROM drive of VM {name}?",
        _attach,
        _STATES,
        (
            Option("iso", "ISO image", is_argument=True),
            Option("boot-first", "Boot from it before the disks at the next start", is_flag=True),
        ),
    ),
    Action(
        "eject-iso",
        ("vm", "iso", "eject"),
        "Eject ISO image",
        "Take an ISO image out of its drive in VM {name}? A guest that has mounted it then reads errors.",
        _eject,
        _STATES,
        (Option("iso", "ISO image", is_argument=True),),
        needs=frozenset({"iso"}),
    ),
)
