"""What agents are told of volumes: rows in, protobuf out."""

from __future__ import annotations

from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import volume_pb2
from ostler_common.errors import InternalError

from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import KeyHolder
from ostler_control.models import BackupDisk, Template, VmSnapshotMemory, VolumeFile
from ostler_control.templates.source import direct_source
from ostler_control.volumes.rows import FileRow

FORMATS = {"qcow2": volume_pb2.DISK_FORMAT_QCOW2, "raw": volume_pb2.DISK_FORMAT_RAW}
PROVISIONINGS = {
    "thin": volume_pb2.PROVISIONING_THIN,
    "sparse": volume_pb2.PROVISIONING_SPARSE,
    "thick": volume_pb2.PROVISIONING_THICK,
}
ENCRYPT_FORMATS = {"none": volume_pb2.ENCRYPT_FORMAT_NONE, "luks": volume_pb2.ENCRYPT_FORMAT_LUKS}


def plain_ref(row: FileRow, pool_id: str = "") -> volume_pb2.VolumeRef:
    """Names a file without its passphrase, but with its key's id. pool_id: where it is, if not in its row's pool."""
    ref = volume_pb2.VolumeRef(pool_id=pool_id or row.pool_id, volume_id=row.file_id, format=FORMATS[row.format])
    if row.passphrase_id:
        ref.key.key_id = row.passphrase_id
    return ref


def keyed_ref(row: FileRow, keys: Keyring, iter_time_ms: int = 0, pool_id: str = "") -> volume_pb2.VolumeRef:
    """Names a file, with its passphrase: only to be sent to an agent."""
    ref = plain_ref(row, pool_id)
    if row.passphrase_id:
        ref.key.CopyFrom(key(row, keys, iter_time_ms))
    return ref


def key(row: KeyHolder, keys: Keyring, iter_time_ms: int = 0) -> volume_pb2.VolumeKey:
    """The key of a row that has one: only to be sent to an agent."""
    assert row.passphrase_id is not None
    return volume_pb2.VolumeKey(key_id=row.passphrase_id, passphrase=keys.open(row).reveal(), iter_time_ms=iter_time_ms)


def template_source(template: Template | None, keys: Keyring) -> agent_pb2.TemplateSource | None:
    """Where a volume's first content comes from, with the passphrase that opens it: only to be sent to an agent.

    None for a volume without a template.
    """
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


def _noun(row: FileRow) -> str:
    if isinstance(row, VmSnapshotMemory):
        return "memory of VM snapshot"
    return "disk of backup" if isinstance(row, BackupDisk) else type(row).__name__.lower()


def encrypt_format(row: FileRow, info: volume_pb2.VolumeInfo) -> str:
    """What the agent found in a file's header: none | luks.

    Raises InternalError ENCRYPTION_MISSING unless that is as its row says: such a file is never used.
    """
    found = {number: name for name, number in ENCRYPT_FORMATS.items()}.get(info.encrypt_format, "")
    if (found == "luks") != bool(row.passphrase_id):
        wanted = "encrypted" if row.passphrase_id else "unencrypted"
        what = f"volume {row.volume_id}" if isinstance(row, VolumeFile) else f"{_noun(row)} {row.name}"
        raise InternalError(
            f"the file of {what} should be {wanted}, but its header says otherwise; it was removed",
            "ENCRYPTION_MISSING",
            {"volume": row.id},
        )
    return found
