"""Versions of the key-encryption key."""

from __future__ import annotations

from google.longrunning.operations_pb2 import Operation
from ostler.control.v1 import key_pb2 as pb
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli.app import App
from ostler_control.cli.commands import key
from ostler_control.web import tables
from ostler_control.web.context import Console
from ostler_control.web.creations import Creation
from ostler_control.web.forms import Call
from ostler_control.web.lists import render_list


def keys(console: Console, request: Request) -> Response:
    """The page of versions, with how many passphrases each seals."""
    filters = tables.Filters(request)
    wanted = pb.ListKeysRequest(page_size=tables.PAGE_SIZE, page_token=filters.page)
    answer = console.app.client.keys.ListKeys(wanted)
    following = filters.next(answer.next_page_token)
    table = tables.table(key.VIEW, answer.keys, "Keys", next=following)
    note = "Passphrases of volumes are sealed under a version of the key-encryption key."
    buttons = ROTATION.buttons(console)
    return render_list(console, request, ("key", "list"), filters, table, note, buttons)


def _rotate(app: App, call: Call) -> Operation:
    return app.client.keys.RotateKey(pb.RotateKeyRequest(request_id=call.request_id))


ROTATION = Creation(
    "key",
    ("key", "rotate"),
    "Rotate the key",
    "Create a new version of the key-encryption key, and reseal every passphrase under it? Volumes are not touched.",
    "/keys",
    _rotate,
    admins=True,
)
