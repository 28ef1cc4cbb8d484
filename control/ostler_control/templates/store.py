"""Templates: files in a directory, each named by its id, and their rows.

A file is complete before its row is inserted, and its row is deleted before the file is: a file without a row is a
leftover.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError
from peewee import ModelSelect

from ostler_control import events
from ostler_control.catalog.names import check_name
from ostler_control.database import session, transaction
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import Iso, Passphrase, Template, Volume, VolumeFile, new_id
from ostler_control.states import VolumeState
from ostler_control.templates import admission, received, tpms
from ostler_control.templates.received import Announced, Received
from ostler_control.templates.shared import MARK

_PART = ".part"
# A file without a row is kept for so long, because it may be of an upload in progress.
_MIN_LEFTOVER_AGE_S = 24 * 3600.0


@dataclass(frozen=True)
class NewTemplate:
    """A requested template. hypervisor_type: "" for every type that has disks of the format.

    tpm: whether its VMs get a TPM.
    """

    name: str
    firmware: str
    announced: Announced
    hypervisor_type: str = ""
    tpm: bool = False


@dataclass(frozen=True)
class StoredFile:
    """A file that is complete, checked, and durably in the directory. id: its name."""

    id: str
    file: Received


@dataclass(frozen=True)
class Upload:
    """A requested template whose file is stored."""

    wanted: NewTemplate
    stored: StoredFile


@contextlib.contextmanager
def receive(wanted: NewTemplate, chunks: Iterator[bytes], directory: Path) -> Iterator[Upload]:
    """Receives an upload. `record` it inside the block: unless that was done, the end of the block deletes the file.

    Raises InvalidArgumentError (see `received.receive`), AlreadyExistsError.
    """
    check_name("header.name", wanted.name)
    with received_file(wanted.announced, chunks, directory) as file:
        yield Upload(wanted, file)


@contextlib.contextmanager
def received_file(
    announced: Announced, chunks: Iterator[bytes], directory: Path, account_id: str = ""
) -> Iterator[StoredFile]:
    """Receives a file. The end of the block deletes it unless a row with its id exists then.

    account_id: whose upload it is, "" for an admin's. Raises what `store` raises, ResourceExhaustedError
    TOO_MANY_UPLOADS.
    """
    file_id = new_id()
    try:
        with admission.upload_slot(account_id):
            stored = StoredFile(file_id, store(file_id, announced, chunks, directory))
        yield stored
    finally:
        discard(file_id, directory)


def store(file_id: str, announced: Announced, chunks: Iterator[bytes], directory: Path) -> Received:
    """Receives a file under the name `file_id`, replacing that of an earlier attempt.

    Raises what `received.receive` raises, ResourceExhaustedError STORAGE_FULL.
    """
    received.check_size(announced)
    directory.mkdir(mode=0o700, exist_ok=True)
    for old in directory.glob(f"{file_id}.*{_PART}"):
        old.unlink(missing_ok=True)
    # The name is this attempt's own: an earlier one may still be writing, in a replica that another one took for dead.
    part = directory / f"{file_id}.{new_id()}{_PART}"
    try:
        with admission.reserved(part, announced.file_size_bytes):
            file = received.receive(part, announced, chunks)
        received.publish(part, directory / file_id)
    finally:
        part.unlink(missing_ok=True)
    return file


def discard(file_id: str, directory: Path) -> None:
    """Deletes a file unless a row refers to it."""
    if not is_known(file_id):
        (directory / file_id).unlink(missing_ok=True)


def record(upload: Upload, actor: str) -> Template:
    """Inserts the row of an upload: within the caller's transaction. Raises AlreadyExistsError TEMPLATE_EXISTS."""
    template = insert(upload.stored.id, upload.wanted, upload.stored.file)
    events.done("template.upload", actor, template)
    return template


def insert(template_id: str, wanted: NewTemplate, file: Received, passphrase: Passphrase | None = None) -> Template:
    """Inserts the row of a stored file: within the caller's transaction. Raises AlreadyExistsError TEMPLATE_EXISTS."""
    check_free_name(wanted.name)
    template = Template.create(
        id=template_id,
        name=wanted.name,
        format=wanted.announced.format,
        firmware=wanted.firmware,
        hypervisor_type=wanted.hypervisor_type,
        virtual_size_bytes=file.virtual_size_bytes,
        file_size_bytes=file.file_size_bytes,
        sha256=file.sha256,
        passphrase=passphrase,
    )
    if wanted.tpm:
        tpms.add(template)
    return template


def check_free_name(name: str) -> None:
    """Raises AlreadyExistsError TEMPLATE_EXISTS."""
    if Template.select().where(Template.name == name).exists():
        raise name_taken(name)


def check_encryption(template: Template, encrypted: bool) -> None:
    """Raises FailedPreconditionError TEMPLATE_ENCRYPTED where an encrypted template would be written to a plain disk.

    encrypted: whether the disk is.
    """
    if template.passphrase_id and not encrypted:
        raise FailedPreconditionError(
            f"template {template.name} is encrypted, but the offering creates an unencrypted root disk; choose an "
            "offering that encrypts it",
            "TEMPLATE_ENCRYPTED",
            {"template": template.id},
        )


def name_taken(name: str) -> AlreadyExistsError:
    """The error for a name that another template has."""
    return AlreadyExistsError(f"template {name} already exists; choose another name", "TEMPLATE_EXISTS")


def delete(template: Template, actor: str, directory: Path) -> None:
    """Deletes a template. Raises FailedPreconditionError TEMPLATE_IN_USE while a volume is being created from it."""
    with transaction():
        creating = Volume.select().where((Volume.template == template) & (Volume.state == VolumeState.CREATING))
        if creating.exists():
            raise FailedPreconditionError(
                f"volumes are being created from template {template.name}; wait until they are ready", "TEMPLATE_IN_USE"
            )
        events.done("template.delete", actor, template)
        template.delete_instance()
        if template.passphrase_id:
            delete_passphrase(template.passphrase_id)
            events.done(
                "template.key.destroy", actor, template, f"key {template.passphrase_id} is destroyed with its template"
            )
    (directory / template.id).unlink(missing_ok=True)


def sweep(directory: Path, now: Callable[[], float] = time.time) -> int:
    """Deletes the files that interrupted uploads and deletions have left; returns how many."""
    if not directory.is_dir():
        return 0
    known = _known()
    leftovers = [path for path in directory.iterdir() if path.name not in known and not path.name.startswith(MARK)]
    deleted = 0
    for path in leftovers:
        with contextlib.suppress(FileNotFoundError):  # another replica sweeps the same directory
            if path.is_file() and now() - path.stat().st_mtime > _MIN_LEFTOVER_AGE_S:
                path.unlink()
                deleted += 1
    return deleted


def is_known(file_id: str) -> bool:
    """Whether a template, an ISO image or an upload in progress needs this file."""
    with session():
        if any(model.select().where(model.id == file_id).exists() for model in (Template, Iso)):
            return True
        return _uploads().where(VolumeFile.id == file_id).exists()


def _known() -> set[str]:
    with session():
        queries = (Template.select(Template.id), Iso.select(Iso.id), _uploads())
        return {row.id for query in queries for row in query}


def _uploads() -> ModelSelect[VolumeFile]:
    return VolumeFile.select(VolumeFile.id).where(VolumeFile.role == "upload")
