"""Volumes as agents hear of them: rows in, protobuf out."""

from __future__ import annotations

from typing import Any

from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import volume_pb2
from ostler_common.errors import InternalError

from ostler_control.keys import Keyring
from ostler_control.models import Snapshot, VolumeFile
from ostler_control.templates.source import direct_source

FORMATS = {"qcow2": volume_pb2.DISK_FORMAT_QCOW2, "raw": volume_pb2.DISK_FORMAT_RAW}
PROVISIONINGS = {
    "thin": volume_pb2.PROVISIONING_THIN,
    "sparse": volume_pb2.PROVISIONING_SPARSE,
    "thick": volume_pb2.PROVISIONING_THICK,
}
ENCRYPT_FORMATS = {"none": volume_pb2.ENCRYPT_FORMAT_NONE, "luks": volume_pb2.ENCRYPT_FORMAT_LUKS}


def plain_ref(volume: Any, pool_id: str = "") -> volume_pb2.VolumeRef:
    """Names a Volume, VolumeFile or Snapshot without its passphrase (its key's id is there). pool_id: where, if not in
    its row's pool."""
    file_id = volume.id if isinstance(volume, (VolumeFile, Snapshot)) else volume.file_id
    ref = volume_pb2.VolumeRef(pool_id=pool_id or volume.pool_id, volume_id=file_id, format=FORMATS[volume.format])
    if volume.passphrase_id:
        ref.key.key_id = volume.passphrase_id
    return ref


def keyed_ref(volume: Any, keys: Keyring, iter_time_ms: int = 0, pool_id: str = "") -> volume_pb2.VolumeRef:
    """Names one of them and brings its passphrase: only for the call that it is made for."""
    ref = plain_ref(volume, pool_id)
    if volume.passphrase_id:
        ref.key.CopyFrom(key(volume, keys, iter_time_ms))
    return ref


def key(row: Any, keys: Keyring, iter_time_ms: int = 0) -> volume_pb2.VolumeKey:
    """The key of a row that has one: only for the call that it is made for."""
    return volume_pb2.VolumeKey(key_id=row.passphrase_id, passphrase=keys.open(row).reveal(), iter_time_ms=iter_time_ms)


def template_source(template: Any | None, keys: Keyring) -> agent_pb2.TemplateSource | None:
    """Where a volume's first content comes from, with the passphrase that opens it: only for the call that it is made
    for."""
    if template is None:
        return None
    return agent_pb2.TemplateSource(
        key=key(template, keys) if template.passphrase_id else None,
        template_id=template.id,
        sha256=template.sha256,
        file_size_bytes=template.file_size_bytes,
        format=FORMATS[template.format],
        sha512=template.sha512,
        direct=direct_source(template.url, template.ca_pem) if template.url else None,
    )


def encrypt_format(volume: Any, info: volume_pb2.VolumeInfo) -> str:
    """What the agent found in the header of a Volume's, VolumeFile's or Snapshot's file: none | luks.

    Raises InternalError ENCRYPTION_MISSING when a volume that must be encrypted is not: it is never put to use.
    """
    found = {number: name for name, number in ENCRYPT_FORMATS.items()}.get(info.encrypt_format, "")
    if (found == "luks") != bool(volume.passphrase_id):
        wanted = "encrypted" if volume.passphrase_id else "unencrypted"
        raise InternalError(
            f"volume {getattr(volume, 'name', volume.id)} should be {wanted}, and its file's header "
            "says otherwise; it was removed",
            "ENCRYPTION_MISSING",
            {"volume": volume.id},
        )
    return found
