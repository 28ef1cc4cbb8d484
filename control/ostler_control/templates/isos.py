"""ISO images: files among the templates', and their rows."""

from __future__ import annotations

from pathlib import Path

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError, bad_field

from ostler_control import events
from ostler_control.catalog.names import check_name
from ostler_control.database import locked, transaction
from ostler_control.models import Iso, Vm, VmIso, tuples
from ostler_control.templates.received import Announced
from ostler_control.templates.store import StoredFile

# The largest installers have 15 GiB.
MAX_FILE_BYTES = 64 << 30
_NAMED = 3


def announced(name: str, file_size_bytes: int, sha256: str) -> Announced:
    """The file of a requested ISO image. Raises InvalidArgumentError, AlreadyExistsError ISO_EXISTS."""
    check_name("header.name", name)
    if not 0 < file_size_bytes <= MAX_FILE_BYTES:
        raise bad_field("header.file_size_bytes", f"must be 1 to {MAX_FILE_BYTES}", "INVALID_SIZE")
    check_free_name(name)
    return Announced("iso", file_size_bytes, sha256)


def check_free_name(name: str) -> None:
    """Raises AlreadyExistsError ISO_EXISTS."""
    if Iso.select().where(Iso.name == name).exists():
        raise AlreadyExistsError(f"ISO image {name} already exists; choose another name", "ISO_EXISTS")


def record(name: str, stored: StoredFile, actor: str) -> Iso:
    """Inserts the row of a stored file: within the caller's transaction. Raises AlreadyExistsError ISO_EXISTS."""
    check_free_name(name)
    file = stored.file
    iso = Iso.create(id=stored.id, name=name, file_size_bytes=file.file_size_bytes, sha256=file.sha256)
    events.done("iso.upload", actor, iso)
    return iso


def lock(iso: Iso) -> Iso:
    """Keeps an ISO image from being deleted until the caller's transaction ends. Raises NotFoundError ISO_NOT_FOUND."""
    found: Iso | None = locked(Iso.select().where(Iso.id == iso.id)).get_or_none()
    if found is None:
        raise NotFoundError(f"ISO image {iso.name} is gone", "ISO_NOT_FOUND")
    return found


def delete(iso: Iso, actor: str, directory: Path) -> None:
    """Deletes an ISO image.

    Raises FailedPreconditionError ISO_IN_USE while it is in a drive, NotFoundError ISO_NOT_FOUND.
    """
    with transaction():
        iso = lock(iso)
        query = Vm.select(Vm.name).join(VmIso).where(VmIso.iso == iso).order_by(Vm.name).limit(_NAMED + 1)
        names = [name for (name,) in tuples(query, tuple[str])]
        if names:
            more = " and others" if len(names) > _NAMED else ""
            raise FailedPreconditionError(
                f"ISO image {iso.name} is in a drive of VM {', '.join(names[:_NAMED])}{more}; eject it first "
                f"(ostler vm iso eject {names[0]} {iso.name})",
                "ISO_IN_USE",
                {"iso": iso.id},
            )
        events.done("iso.delete", actor, iso)
        iso.delete_instance()
    (directory / iso.id).unlink(missing_ok=True)
