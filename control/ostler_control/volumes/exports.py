"""Exports: copies of a volume or a snapshot that are written to be read and deleted again.

An export has a VolumeFile row of role "export" from before a host writes it until it is surely gone; what a crash
leaves is swept by that row.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import InternalError, OstlerError
from ostler_common.secret import Secret

from ostler_control import settings
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.models import Passphrase, VolumeFile
from ostler_control.operations import Run
from ostler_control.operations.records import release
from ostler_control.volumes import files, host_jobs, wire
from ostler_control.volumes.export_encryption import ExportEncryption
from ostler_control.volumes.sources import Source, SourceInputs, load_source

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ExportInputs(SourceInputs):
    """file_id: the export's; host_id, vm_id: the VM that runs with the source and its host, "" when none does."""

    iter_time_ms: int
    file_id: str
    host_id: str
    vm_id: str


def record(
    source: Source, encryption: ExportEncryption, format: str, operation_id: str, passphrase: Passphrase | None = None
) -> ExportInputs:
    """Inserts the row of a new export; returns what the operation's steps need.

    passphrase: the export's, when it is stored at all.
    """
    file = VolumeFile.create(
        volume_id=source.volume_id,
        role="export",
        operation_id=operation_id,
        pool=source.pool,
        passphrase=passphrase,
        format=format,
        encrypt_format=encryption.encrypt_format,
        size_bytes=source.row.size_bytes,
    )
    return ExportInputs(
        source_kind=source.kind,
        source_id=source.row.id,
        iter_time_ms=settings.encryption.LUKS_CHOSEN_ITER_TIME.get(),
        file_id=file.id,
        host_id=source.host.id if source.host else "",
        vm_id=source.vm.id if source.vm and source.host else "",
    )


def choose(run: Run) -> str:
    """Inside a step: id of the host to write the export and to read it."""
    inputs = run.read(ExportInputs)
    if inputs.host_id:
        return inputs.host_id
    file = files.load(inputs.file_id)
    return host_jobs.choose_for_copy(run, load_source(run), file, encrypted=file.encrypt_format == "luks")


def copy(run: Run, host_id: str, passphrase: Secret | None, share: tuple[int, int] = (0, 100)) -> None:
    """Inside a step: makes the host fill the export. passphrase: opens it afterwards; None: it is not encrypted.

    Raises InternalError ENCRYPTION_MISSING unless the passphrase and the result agree with what was recorded.
    """
    inputs = run.read(ExportInputs)
    source, file = load_source(run), files.load(inputs.file_id)
    if (passphrase is not None) != (file.encrypt_format == "luks"):
        raise InternalError("the export would not be encrypted as was recorded", "ENCRYPTION_MISSING")
    target = wire.plain_ref(file)
    if passphrase is not None:
        target.key.key_id = file.passphrase_id or file.id
        target.key.passphrase = passphrase.reveal()
        target.key.iter_time_ms = inputs.iter_time_ms
    request = volume_pb2.CopyVolumeRequest(
        operation=run.ref(),
        source=wire.keyed_ref(source, run.keys),
        target=target,
        provisioning=wire.PROVISIONINGS["thin"],
        vm_id=inputs.vm_id,
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.CopyVolume, request, share)
    if (update.volume.encrypt_format == types_pb2.ENCRYPT_FORMAT_LUKS) != (passphrase is not None):
        raise InternalError("the host did not encrypt the export as was asked for", "ENCRYPTION_MISSING")


def release_source(run: Run) -> None:
    """Inside a step: the copy is complete, so its source and its VM are free for other operations."""
    with transaction():
        release(run.id)


def discard(run: Run) -> None:
    """Inside a step: deletes the export, then its row and its passphrase. What cannot be deleted now is swept later."""
    file_id = run.read(ExportInputs).file_id
    try:
        files.remove(run, file_id)
    except OstlerError as error:
        log.warning("an export could not be deleted yet", file=file_id, reason=error.reason)
