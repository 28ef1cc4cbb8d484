"""Uploads: a volume made of a file that the caller sends, encrypted ones opened by the caller's passphrase.

The file lies among the templates' files, as encrypted as it came, until a host has converted it; the volume gets a key
of its own. The caller's passphrase is sealed in a VolumeFile row of role "upload", and destroyed with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from ostler_control.templates import store as template_store
from ostler_control.templates.received import Announced, check_size
from ostler_control.templates.store import StoredFile
from ostler_control.volumes import files, matrix, wire
from ostler_control.volumes.create import MIB, NewVolume, check_free_name, choose, create_file, delete_file, insert


@dataclass(frozen=True)
class NewUpload:
    """A volume that is wanted. pool None: chosen; passphrase: opens the file, None for a plain one."""

    name: str
    account: Account
    offering: DiskOffering
    announced: Announced
    pool: Pool | None = None
    passphrase: Secret | None = None


def check_upload(wanted: NewUpload, again: bool = False) -> None:
    """Refuses before anything is sent what would be refused afterwards. again: it may be the repeat of a request.

    Raises InvalidArgumentError; AlreadyExistsError VOLUME_EXISTS; FailedPreconditionError ENCRYPTION_MISMATCH.
    """
    check_name("header.name", wanted.name)
    if not again:
        check_free_name(wanted.account, wanted.name)
    check_size(wanted.announced)
    if wanted.passphrase and not wanted.offering.encrypt:
        raise FailedPreconditionError(
            f"the file is encrypted, and disk offering {wanted.offering.name} would write it to an unencrypted volume; "
            "choose an offering that encrypts",
            "ENCRYPTION_MISMATCH",
            {"disk_offering": wanted.offering.id},
        )


def upload(wanted: NewUpload, stored: StoredFile, user: str, keys: Keyring) -> Operation:
    """Records a new volume and the operation that fills it with a file that is there.

    Raises what `check_upload` and `create.create` raise; InvalidArgumentError INVALID_SIZE for too small an offering.
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
    inputs = {
        "file_id": stored.id,
        "sha256": stored.file.sha256,
        "file_size_bytes": stored.file.file_size_bytes,
        "iter_time_ms": settings.encryption.LUKS_ITER_TIME.get(),
    }
    return record_operation("volume.upload", volume, user, inputs, operation_id=operation_id)


def _size(wanted: NewUpload, virtual_size_bytes: int) -> int:
    own: int = wanted.offering.size_bytes
    if own and own < virtual_size_bytes:
        raise bad_field(
            "header.disk_offering",
            f"{wanted.offering.name} makes volumes of {format_size(own)}, and the disk in the file has "
            f"{format_size(virtual_size_bytes)}",
            "INVALID_SIZE",
        )
    return own or -(-virtual_size_bytes // MIB) * MIB


@workflow("volume.upload")
def _upload(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("settle", lambda: _settle(run, undo))
        undo.push("drop", lambda: _drop(run))
        host_id: str = run.step("choose", lambda: choose(run))
        undo.push("remove", lambda: delete_file(run, host_id, run.resource_id))
        run.step("create", lambda: _fill(run, host_id))
        undo.clear()
        run.always("drop", lambda: _drop(run))


def _fill(run: Run, host_id: str) -> None:
    file = files.load(run.inputs["file_id"])
    source = volume_pb2.TemplateSource(
        template_id=file.id,
        sha256=run.inputs["sha256"],
        file_size_bytes=run.inputs["file_size_bytes"],
        format=wire.FORMATS[file.format],
        key=wire.key(file, run.keys) if file.passphrase_id else None,
        once=True,
    )
    create_file(run, host_id, run.resource_id, run.inputs["iter_time_ms"], source=source)


def _drop(run: Run) -> None:
    """Inside a step: the passphrase is destroyed, and the file deleted."""
    files.forget(run, run.inputs["file_id"])
    template_store.discard(run.inputs["file_id"], run.templates)


def _settle(run: Run, undo: Undo) -> None:
    """Nothing stays of an upload that failed, unless a host may still have a file of it: that is to be deleted."""
    with transaction():
        volume: Any = Volume.get_or_none(Volume.id == run.resource_id)
        if volume is None:
            return
        if undo.failed("remove"):
            Volume.update(state="failed", state_reason=str(undo.error)).where(Volume.id == volume.id).execute()
        else:
            delete_volume(volume, run.user)
