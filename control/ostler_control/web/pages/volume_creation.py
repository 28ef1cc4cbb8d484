"""The form of a new volume."""

from __future__ import annotations

from google.longrunning.operations_pb2 import Operation
from ostler.client.paging import pages
from ostler.control.v1.offering_pb2 import ListDiskOfferingsRequest
from ostler.control.v1.volume_pb2 import CreateVolumeRequest

from ostler_control.cli.app import App
from ostler_control.web.creations import Creation, Suggestions, size_of
from ostler_control.web.forms import Call, Option
from ostler_control.web.tables import PAGE_SIZE


def _suggest(app: App) -> Suggestions:
    offerings = pages(
        app.client.offerings.ListDiskOfferings, ListDiskOfferingsRequest(), lambda a: a.disk_offerings, PAGE_SIZE
    )
    return {"offering": [one.name for one in offerings]}


def _create(app: App, call: Call) -> Operation:
    return app.client.volumes.CreateVolume(
        CreateVolumeRequest(
            request_id=call.request_id,
            name=call.text("name"),
            disk_offering=call.text("offering"),
            size_bytes=size_of(call, "size"),
            account=call.text("account"),
            pool=call.text("pool"),
        )
    )


CREATION = Creation(
    "volume",
    ("volume", "create"),
    "Create volume",
    "An empty data volume, encrypted where the disk offering says so.",
    "/volumes",
    _create,
    (
        Option("name", "Name", is_argument=True),
        Option("offering", "Disk offering", is_required=True),
        Option("size", "Size, such as 20GiB (empty: the offering's)"),
        Option("account", "Account (empty: yours)"),
        Option("pool", "Pool (empty: chosen)", admins=True),
    ),
    _suggest,
)
