"""How volumes are printed."""

from __future__ import annotations

from ostler.control.v1 import volume_pb2 as pb
from ostler.types.v1.volume_pb2 import ENCRYPT_FORMAT_LUKS

from ostler_control.cli import text
from ostler_control.cli.io_limits import limits_text
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.output import View


def _encrypted(volume: pb.Volume) -> str:
    return text.yes(volume.encrypt_format == ENCRYPT_FORMAT_LUKS)


def _attached(volume: pb.Volume) -> str:
    return f"{volume.vm_name} as {text.disk(volume.slot)}" if volume.vm_id or volume.vm_name else text.NONE


def _limits(volume: pb.Volume) -> str:
    shown = limits_text(volume.limits) if volume.HasField("limits") else "none"
    return f"{shown}, in place of those of its offering" if volume.own_limits else shown


def _file(volume: pb.Volume) -> str:
    if not volume.HasField("file"):
        return text.NONE
    file = volume.file
    parts = [text.enum_of(file, "format"), f"encryption by its header: {text.enum_of(file, 'encrypt_format')}"]
    parts += [f"{text.size(file.virtual_size_bytes)} for the guest", f"{text.size(file.allocated_bytes)} on the pool"]
    return text.joined(parts)


VIEW = View[pb.Volume](
    "volume",
    columns=[
        ("name", lambda v: v.name),
        ("state", lambda v: text.enum_of(v, "state")),
        ("size", lambda v: text.size(v.size_bytes)),
        ("encrypted", _encrypted),
        ("pool", lambda v: v.pool_name),
        ("attached to", _attached),
    ],
    details=[
        ("reason", lambda v: v.state_reason),
        ("account", lambda v: v.account_name),
        ("root disk", lambda v: text.yes(v.root)),
        ("offering", lambda v: v.disk_offering_name),
        ("format", lambda v: text.enum_of(v, "format")),
        ("encryption", lambda v: text.enum_of(v, "encrypt_format")),
        ("key version", lambda v: v.key_version),
        ("provisioning", lambda v: text.enum_of(v, "provisioning")),
        ("i/o limits", _limits),
        ("path", lambda v: v.path),
        ("file", _file),
        ("labels", lambda v: labels_joined(v.labels)),
        ("created", lambda v: text.when(v, "create_time")),
        ("id", lambda v: v.id),
    ],
)
