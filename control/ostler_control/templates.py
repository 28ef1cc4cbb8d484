"""Templates: files in a directory, each named by its id, and their rows.

A file is whole before its row is there, and its row is gone before the file is: what has no row is nobody's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, bad_field

from ostler_control import events
from ostler_control.database import session, transaction
from ostler_control.images import HEAD_BYTES, examine
from ostler_control.models import Template, Volume, new_id
from ostler_control.names import check_name

LARGEST_PIECE_BYTES = 1 << 20
_LARGEST_FILE_BYTES = 16 << 40
_PART = ".part"
# An upload that is this old and has no row is one that broke off.
_LEFTOVER_AGE_S = 24 * 3600.0


@dataclass(frozen=True)
class NewTemplate:
    """A template that is wanted. sha256: of the file, hex; "" when it is not known beforehand.

    hypervisor_type: "" for every one that has disks of the format.
    """

    name: str
    format: str
    firmware: str
    file_size_bytes: int
    sha256: str = ""
    hypervisor_type: str = ""


@dataclass(frozen=True)
class Upload:
    """A file that was received whole, checked, and is on disk for good."""

    id: str
    wanted: NewTemplate
    virtual_size_bytes: int
    sha256: str


@contextlib.contextmanager
def receive(wanted: NewTemplate, pieces: Iterator[bytes], directory: Path) -> Iterator[Upload]:
    """Takes an upload; `record` it inside the block: when the block raises, or does not record it, the file goes.

    Raises InvalidArgumentError (SIZE_MISMATCH, DIGEST_MISMATCH, and what `images.examine` refuses), AlreadyExistsError.
    """
    check_name("header.name", wanted.name)
    if not 0 < wanted.file_size_bytes <= _LARGEST_FILE_BYTES:
        raise bad_field("header.file_size_bytes", f"must be 1 to {_LARGEST_FILE_BYTES}", "INVALID_SIZE")
    template_id = new_id()
    directory.mkdir(mode=0o700, exist_ok=True)
    part, path = directory / f"{template_id}{_PART}", directory / template_id
    try:
        head, digest = _write(part, wanted, pieces)
        if wanted.sha256 and wanted.sha256.lower() != digest:
            raise InvalidArgumentError(
                f"the file's SHA-256 is {digest}, not what was announced; it was damaged on its way (send it again)",
                "DIGEST_MISMATCH",
            )
        image = examine(head, wanted.file_size_bytes, wanted.format)
        part.rename(path)
        _sync_directory(directory)
        yield Upload(template_id, wanted, image.virtual_size_bytes, digest)
    finally:
        part.unlink(missing_ok=True)
        with session():
            recorded = Template.get_or_none(Template.id == template_id) is not None
        if not recorded:
            path.unlink(missing_ok=True)


def record(upload: Upload, actor: str) -> Template:
    """Makes the row of an upload: within the caller's transaction. Raises AlreadyExistsError TEMPLATE_EXISTS."""
    wanted = upload.wanted
    if Template.select().where(Template.name == wanted.name).exists():
        raise name_taken(wanted.name)
    template = Template.create(
        id=upload.id,
        name=wanted.name,
        format=wanted.format,
        firmware=wanted.firmware,
        hypervisor_type=wanted.hypervisor_type,
        virtual_size_bytes=upload.virtual_size_bytes,
        file_size_bytes=wanted.file_size_bytes,
        sha256=upload.sha256,
    )
    events.done("template.upload", actor, template)
    return template


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
    (directory / template.id).unlink(missing_ok=True)


def sweep(directory: Path, now: Callable[[], float] = time.time) -> int:
    """Removes what uploads and deletions that a crash cut short have left; returns how many files."""
    if not directory.is_dir():
        return 0
    with session():
        known = {row.id for row in Template.select(Template.id)}
    leftovers = [path for path in directory.iterdir() if path.name not in known and path.is_file()]
    old = [path for path in leftovers if now() - path.stat().st_mtime > _LEFTOVER_AGE_S]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _write(part: Path, wanted: NewTemplate, pieces: Iterator[bytes]) -> tuple[bytes, str]:
    """The file's beginning and its digest, with the file on disk for good."""
    digest, head, size = hashlib.sha256(), b"", 0
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            size += len(piece)
            if len(piece) > LARGEST_PIECE_BYTES:
                raise bad_field("data", f"at most {LARGEST_PIECE_BYTES} bytes a message", "PIECE_TOO_LARGE")
            if size > wanted.file_size_bytes:
                break
            if len(head) < HEAD_BYTES:
                head += piece[: HEAD_BYTES - len(head)]
                _refuse_early(head, wanted)
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if size != wanted.file_size_bytes:
        more = "more" if size > wanted.file_size_bytes else f"only {size}"
        raise InvalidArgumentError(
            f"{wanted.file_size_bytes} bytes were announced, and {more} came; it broke off, or the file changed",
            "SIZE_MISMATCH",
        )
    return head, digest.hexdigest()


def _refuse_early(head: bytes, wanted: NewTemplate) -> None:
    """Nobody should send gigabytes to hear that the first block was wrong."""
    if len(head) == HEAD_BYTES:
        examine(head, wanted.file_size_bytes, wanted.format)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
