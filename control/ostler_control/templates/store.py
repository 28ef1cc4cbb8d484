"""Templates: files in a directory, each named by its id, and their rows.

A file is whole before its row is there, and its row is gone before the file is: what has no row is nobody's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError

from ostler_control import events
from ostler_control.catalog.names import check_name
from ostler_control.database import session, transaction
from ostler_control.models import Passphrase, Template, Volume, VolumeFile, new_id
from ostler_control.templates import received
from ostler_control.templates.received import Announced, Received

_PART = ".part"
# An upload that is this old and has no row is one that broke off.
_LEFTOVER_AGE_S = 24 * 3600.0


@dataclass(frozen=True)
class NewTemplate:
    """A template that is wanted. hypervisor_type: "" for every one that has disks of the format."""

    name: str
    firmware: str
    announced: Announced
    hypervisor_type: str = ""


@dataclass(frozen=True)
class StoredFile:
    """A file that was received whole, checked, and is in the directory for good. id: its name."""

    id: str
    file: Received


@dataclass(frozen=True)
class Upload:
    """A template whose file is there."""

    wanted: NewTemplate
    stored: StoredFile


@contextlib.contextmanager
def receive(wanted: NewTemplate, pieces: Iterator[bytes], directory: Path) -> Iterator[Upload]:
    """Takes an upload; `record` it inside the block: when the block raises, or does not record it, the file goes.

    Raises InvalidArgumentError (see `received.receive`), AlreadyExistsError.
    """
    check_name("header.name", wanted.name)
    with received_file(wanted.announced, pieces, directory) as file:
        yield Upload(wanted, file)


@contextlib.contextmanager
def received_file(announced: Announced, pieces: Iterator[bytes], directory: Path) -> Iterator[StoredFile]:
    """Receives a file; it goes at the end of the block unless a row with its id is there then."""
    file_id = new_id()
    try:
        yield StoredFile(file_id, store(file_id, announced, pieces, directory))
    finally:
        discard(file_id, directory)


def store(file_id: str, announced: Announced, pieces: Iterator[bytes], directory: Path) -> Received:
    """Receives a file under the name `file_id`; repeated, anew. Raises what `received.receive` raises."""
    directory.mkdir(mode=0o700, exist_ok=True)
    part = directory / f"{file_id}{_PART}"
    part.unlink(missing_ok=True)
    try:
        file = received.receive(part, announced, pieces)
        received.publish(part, directory / file_id)
    finally:
        part.unlink(missing_ok=True)
    return file


def discard(file_id: str, directory: Path) -> None:
    """Removes a file that no row refers to; any other stays."""
    if not is_known(file_id):
        (directory / file_id).unlink(missing_ok=True)


def record(upload: Upload, actor: str) -> Template:
    """Makes the row of an upload: within the caller's transaction. Raises AlreadyExistsError TEMPLATE_EXISTS."""
    template = insert(upload.stored.id, upload.wanted, upload.stored.file)
    events.done("template.upload", actor, template)
    return template


def insert(template_id: str, wanted: NewTemplate, file: Received, passphrase: Any = None) -> Template:
    """Makes the row of a file that is there: within the caller's transaction. Raises AlreadyExistsError."""
    check_free_name(wanted.name)
    row: Template = Template.create(
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
    return row


def check_free_name(name: str) -> None:
    """Raises AlreadyExistsError TEMPLATE_EXISTS."""
    if Template.select().where(Template.name == name).exists():
        raise name_taken(name)


def check_encryption(template: Any, encrypted: bool) -> None:
    """Raises FailedPreconditionError TEMPLATE_ENCRYPTED where an encrypted template would be written to a plain disk.

    encrypted: whether the disk is.
    """
    if template.passphrase_id and not encrypted:
        raise FailedPreconditionError(
            f"template {template.name} is encrypted, and the offering would write it to an unencrypted disk; choose an "
            "offering that encrypts the root disk",
            "TEMPLATE_ENCRYPTED",
            {"template": template.id},
        )


def name_taken(name: str) -> AlreadyExistsError:
    """The error for a name that a template has already."""
    return AlreadyExistsError(f"there is a template named {name} already; choose another name", "TEMPLATE_EXISTS")


def delete(template: Any, actor: str, directory: Path) -> None:
    """Deletes a template. Raises FailedPreconditionError TEMPLATE_IN_USE while a volume is being made from it."""
    with transaction():
        making = Volume.select().where((Volume.template == template) & (Volume.state == "creating"))
        if making.exists():
            raise FailedPreconditionError(
                f"volumes are being made from template {template.name}; wait for them", "TEMPLATE_IN_USE"
            )
        events.done("template.delete", actor, template)
        template.delete_instance()
        if template.passphrase_id:
            Passphrase.delete().where(Passphrase.id == template.passphrase_id).execute()
            events.done(
                "template.key.destroy", actor, template, f"key {template.passphrase_id} is destroyed with its template"
            )
    (directory / template.id).unlink(missing_ok=True)


def sweep(directory: Path, now: Callable[[], float] = time.time) -> int:
    """Removes what uploads and deletions that a crash cut short have left; returns how many files."""
    if not directory.is_dir():
        return 0
    known = _known()
    leftovers = [path for path in directory.iterdir() if path.name not in known and path.is_file()]
    old = [path for path in leftovers if now() - path.stat().st_mtime > _LEFTOVER_AGE_S]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def is_known(file_id: str) -> bool:
    """Whether a template or an upload under way needs this file."""
    with session():
        return any(query.where(model.id == file_id).exists() for model, query in _needing())


def _known() -> set[str]:
    with session():
        return {row.id for _, query in _needing() for row in query}


def _needing() -> list[tuple[Any, Any]]:
    """Selects the rows that are named as a file here is."""
    uploads = VolumeFile.select(VolumeFile.id).where(VolumeFile.role == "upload")
    return [(Template, Template.select(Template.id)), (VolumeFile, uploads)]
