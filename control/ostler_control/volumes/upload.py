"""Uploads: a volume created from a file that the caller sends, which may be encrypted under a passphrase of theirs.

The file is kept among the templates' files, as it came, until a host has converted it; the volume has its own key. The
caller's passphrase is sealed in a VolumeFile row of role "upload", and destroyed with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, bad_field
from ostler_common.secret import Secret
from ostler_common.units import format_size

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.database import transaction
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import Account, DiskOffering, Operation, Pool, Volume, VolumeFile, new_id
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.states import VolumeState
from ostler_control.templates import store as template_store
from ostler_control.templates.received import Announced, check_size
from ostler_control.templates.store import StoredFile
from ostler_control.volumes import files, host_jobs, matrix, wire
from ostler_control.volumes.create import create_file, delete_file
from ostler_control.volumes.new_volume import MIB, NewVolume, check_free_name, insert
from ostler_control.volumes.rows import load


@dataclass(frozen=True)
class UploadInputs:
    """file_id, sha256, file_size_bytes: of the stored file."""

    file_id: str
    sha256: str
    file_size_bytes: int
    iter_time_ms: int


@dataclass(frozen=True)
class NewUpload:
    """A requested volume. pool None: chosen; passphrase: opens the file, None for a plain one."""

    name: str
    account: Account
    offering: DiskOffering
    announced: Announced
    pool: Pool | None = None
    passphrase: Secret | None = None


def check_upload(wanted: NewUpload, repeated: bool = False) -> None:
    """Refuses before any data is sent what would be refused afterwards. repeated: it may repeat an earlier request.

    Raises InvalidArgumentError; AlreadyExistsError VOLUME_EXISTS; FailedPreconditionError ENCRYPTION_MISMATCH.
    """
    check_name("header.name", wanted.name)
    if not repeated:
        check_free_name(wanted.account, wanted.name)
    check_size(wanted.announced)
    if wanted.passphrase and not wanted.offering.encrypt:
        raise FailedPreconditionError(
            f"the file is encrypted, but disk offering {wanted.offering.name} creates unencrypted volumes; "
            "choose an offering that encrypts",
            "ENCRYPTION_MISMATCH",
            {"disk_offering": wanted.offering.id},
        )


def upload(wanted: NewUpload, stored: StoredFile, user: str, keys: Keyring) -> Operation:
    """Records a new volume and the operation that fills it with a stored file.

    Raises what `check_upload` and `new_volume.insert` raise; InvalidArgumentError INVALID_SIZE when the offering is too
    small.
    """
    check_upload(wanted)
    size_bytes = _size(wanted, stored.file.virtual_size_bytes)
    new = NewVolume(wanted.name, wanted.account, wanted.offering, size_bytes, wanted.pool)
    volume = insert(new, keys, matrix.Operation.UPLOAD)
    operation_id = new_id()
    VolumeFile.create(
        id=stored.id,
        volume_id=volume.id,
        role="upload",
        operation_id=operation_id,
        pool=volume.pool,
        passphrase=keys.store(wanted.passphrase, volume.id) if wanted.passphrase else None,
        format=wanted.announced.format,
        encrypt_format="luks" if wanted.passphrase else "none",
        size_bytes=stored.file.virtual_size_bytes,
    )
    inputs = UploadInputs(
        stored.id, stored.file.sha256, stored.file.file_size_bytes, settings.encryption.LUKS_ITER_TIME.get()
    )
    return record_operation("volume.upload", volume, user, inputs, operation_id=operation_id)


def _size(wanted: NewUpload, virtual_size_bytes: int) -> int:
    fixed = wanted.offering.size_bytes
    if fixed and fixed < virtual_size_bytes:
        raise bad_field(
            "header.disk_offering",
            f"{wanted.offering.name} creates volumes of {format_size(fixed)}, but the disk in the file has "
            f"{format_size(virtual_size_bytes)}",
            "INVALID_SIZE",
        )
    return fixed or -(-virtual_size_bytes // MIB) * MIB


@workflow("volume.upload")
def _upload(run: Run) -> None:
    inputs = run.read(UploadInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        undo.push("delete-upload", lambda: _delete_upload(run, inputs.file_id))
        host_id: str = run.step("choose", lambda: host_jobs.choose_for(run, load(run.resource_id)))
        undo.push("remove", lambda: delete_file(run, host_id, run.resource_id))
        run.step("create", lambda: _fill(run, host_id, inputs))
        undo.clear()
        run.always("delete-upload", lambda: _delete_upload(run, inputs.file_id))


def _fill(run: Run, host_id: str, inputs: UploadInputs) -> None:
    file = files.load(inputs.file_id)
    source = volume_pb2.TemplateSource(
        template_id=file.id,
        sha256=inputs.sha256,
        file_size_bytes=inputs.file_size_bytes,
        format=wire.FORMATS[file.format],
        key=wire.key(file, run.keys) if file.passphrase_id else None,
        once=True,
    )
    create_file(run, host_id, run.resource_id, inputs.iter_time_ms, source=source)


def _delete_upload(run: Run, file_id: str) -> None:
    """Inside a step: destroys the caller's passphrase and deletes the stored file."""
    files.forget(run, file_id)
    template_store.discard(file_id, run.templates)


def _record_failure(run: Run, undo: Undo) -> None:
    """Nothing stays of an upload that failed, unless a host may still have a file of it: then it can be deleted."""
    with transaction():
        volume = Volume.get_or_none(Volume.id == run.resource_id)
        if volume is None:
            return
        if undo.failed("remove"):
            Volume.update(state=VolumeState.FAILED, state_reason=str(undo.error)).where(
                Volume.id == volume.id
            ).execute()
        else:
            delete_volume(volume, run.user, run.id)
