"""Exports: copies of a volume or a snapshot that are made to be read and deleted again.

An export has a VolumeFile row of role "export" from before it is begun until it is surely gone; what a crash leaves is
swept by that row.
"""

from __future__ import annotations

from typing import Any

import structlog
from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import InternalError, OstlerError
from ostler_common.secret import Secret

from ostler_control import settings
from ostler_control.database import session, transaction
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.rows import address_of
from ostler_control.models import VolumeFile
from ostler_control.operations import Json, Run
from ostler_control.operations.records import release
from ostler_control.volumes import files, wire
from ostler_control.volumes.export_encryption import ExportEncryption
from ostler_control.volumes.sources import Source, load_source

log = structlog.get_logger(__name__)


def record(
    source: Source, encryption: ExportEncryption, format: str, operation_id: str, passphrase: Any | None = None
) -> Any:
    """The row of a new export. passphrase: the sealed row of it, when it is kept at all."""
    return VolumeFile.create(
        volume_id=source.volume_id,
        role="export",
        operation_id=operation_id,
        pool=source.pool,
        passphrase=passphrase,
        format=format,
        encrypt_format=encryption.encrypt_format,
        size_bytes=source.row.size_bytes,
    )


def inputs(source: Source, file: Any) -> dict[str, Json]:
    """What the operation's steps need to know. host_id: where the VM runs, else ""."""
    return {
        "iter_time_ms": settings.encryption.LUKS_CHOSEN_ITER_TIME.get(),
        "source_kind": source.kind,
        "source_id": source.row.id,
        "file_id": file.id,
        "host_id": source.host.id if source.host else "",
        "vm_id": source.vm.id if source.vm and source.host else "",
    }


def choose(run: Run) -> str:
    """Inside a step: the host to make the export and to read it."""
    if run.inputs["host_id"]:
        host_id: str = run.inputs["host_id"]
        return host_id
    with session():
        source, file = load_source(run), files.load(run.inputs["file_id"])
        encrypted = bool(source.passphrase_id) or file.encrypt_format == "luks"
        chosen: str = choose_host(source.pool, encrypted, run.agents.busy, file.pool).id
        return chosen


def copy(run: Run, host_id: str, passphrase: Secret | None, share: tuple[int, int] = (0, 100)) -> None:
    """Inside a step: has the host fill the export. passphrase: opens it afterwards; None: it is made in clear."""
    with session():
        source, file = load_source(run), files.load(run.inputs["file_id"])
    if (passphrase is not None) != (file.encrypt_format == "luks"):
        raise InternalError("an export would be made otherwise than was recorded", "ENCRYPTION_MISSING")
    target = wire.plain_ref(file)
    if passphrase is not None:
        target.key.key_id = file.passphrase_id or file.id
        target.key.passphrase = passphrase.reveal()
        target.key.iter_time_ms = run.inputs["iter_time_ms"]
    request = volume_pb2.CopyVolumeRequest(
        operation=run.ref(),
        source=wire.keyed_ref(source, run.keys),
        target=target,
        provisioning=wire.PROVISIONINGS["thin"],
        vm_id=run.inputs["vm_id"],
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.CopyVolume, request, share)
    if (update.volume.encrypt_format == types_pb2.ENCRYPT_FORMAT_LUKS) != (passphrase is not None):
        raise InternalError("the host made the copy with another encryption than was asked for", "ENCRYPTION_MISSING")


def release_source(run: Run) -> None:
    """Inside a step: the copy is whole, so that its source and its VM are free for other operations."""
    with transaction():
        release(run.id)


def discard(run: Run) -> None:
    """Inside a step: deletes the export, then its row and its passphrase. What cannot be deleted now is swept later."""
    try:
        files.remove(run, run.inputs["file_id"])
    except OstlerError as error:
        log.warning("an export could not be deleted yet", file=run.inputs["file_id"], reason=error.reason)
