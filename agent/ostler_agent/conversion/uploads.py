"""Files that are received into a staging directory: resumed by offset, checked by size and digest."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import (
    AbortedError,
    FailedPreconditionError,
    OstlerError,
    ResourceExhaustedError,
    bad_field,
)

from ostler_agent.conversion.staging import MAX_FILES, StagedFile, StagingDirectories, StagingRef, check_name, part_of
from ostler_agent.files import publish

MAX_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Begin:
    """Which file, and where in it an upload begins. max_size_bytes: 0 for as much as fits."""

    staging: StagingRef
    name: str
    offset: int = 0
    max_size_bytes: int = 0


@dataclass(frozen=True)
class End:
    """What the whole file must be. sha256: lower-case hex."""

    size_bytes: int
    sha256: str


class Uploads:
    """Receives files, one upload of a file at a time."""

    def __init__(self, staging: StagingDirectories) -> None:
        self._staging = staging
        self._active: set[tuple[StagingRef, str]] = set()
        self._lock = threading.Lock()

    def receive(self, begin: Begin, pieces: Iterator[bytes | End]) -> StagedFile:
        """Writes pieces until the file's end; when there is none, what came stays for a later upload to resume.

        Raises InvalidArgumentError; FailedPreconditionError (OFFSET_TOO_LARGE; FILE_CORRUPT, and then the file is
        gone); ResourceExhaustedError (POOL_FULL, FILE_TOO_LARGE, TOO_MANY_FILES); AbortedError (FILE_BUSY); what
        `StagingDirectories.using` raises; what pieces raises.
        """
        check_name(begin.name, "begin.name")
        with self._staging.using(begin.staging) as directory, self._exclusive(begin), disk_errors(begin.name):
            part, final = part_of(directory, begin.name), directory / begin.name
            if not part.exists() and len(os.listdir(directory)) >= MAX_FILES:
                raise ResourceExhaustedError(
                    f"the staging directory holds {MAX_FILES} files already", "TOO_MANY_FILES", {"name": begin.name}
                )
            if begin.offset == 0:
                final.unlink(missing_ok=True)
            end, size_bytes, sha256 = _write(part, begin, pieces)
            if end is None:
                return StagedFile(begin.name, size_bytes, complete=False)
            if (size_bytes, sha256) != (end.size_bytes, end.sha256):
                part.unlink()
                raise FailedPreconditionError(
                    f"{begin.name} came with {size_bytes} bytes and another digest than announced for "
                    f"{end.size_bytes} bytes (send it again from the start)",
                    "FILE_CORRUPT",
                    {"name": begin.name, "size_bytes": str(size_bytes)},
                )
            final.unlink(missing_ok=True)
            publish(part, final)
            return StagedFile(begin.name, size_bytes, complete=True)

    @contextmanager
    def _exclusive(self, begin: Begin) -> Iterator[None]:
        file = (begin.staging, begin.name)
        with self._lock:
            if file in self._active:
                raise AbortedError(
                    f"{begin.name} is being received by another call (try again when that has ended)",
                    "FILE_BUSY",
                    {"name": begin.name},
                )
            self._active.add(file)
        try:
            yield
        finally:
            with self._lock:
                self._active.discard(file)


def file_sha256(path: Path, on_read: Callable[[int], None] = lambda count: None) -> str:
    """The digest of a file, hex. on_read: is told how many bytes were read, piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(MAX_PIECE_BYTES):
            digest.update(piece)
            on_read(len(piece))
    return digest.hexdigest()


def _write(part: Path, begin: Begin, pieces: Iterator[bytes | End]) -> tuple[End | None, int, str]:
    """Adds pieces to what is there up to the offset. Returns the end if there was one, size and digest."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(part, flags, 0o600), "r+b") as file:
        there = file.seek(0, os.SEEK_END)
        if begin.offset > there:
            raise FailedPreconditionError(
                f"only {there} bytes of {begin.name} are here (resume from there)",
                "OFFSET_TOO_LARGE",
                {"name": begin.name, "size_bytes": str(there)},
            )
        file.truncate(begin.offset)
        digest = hashlib.sha256()
        file.seek(0)
        while piece := file.read(MAX_PIECE_BYTES):
            digest.update(piece)
        size_bytes = begin.offset
        for arrived in pieces:
            if isinstance(arrived, End):
                return arrived, size_bytes, digest.hexdigest()
            if len(arrived) > MAX_PIECE_BYTES:
                raise bad_field("data", f"must be at most {MAX_PIECE_BYTES} bytes")
            size_bytes += len(arrived)
            if begin.max_size_bytes and size_bytes > begin.max_size_bytes:
                raise ResourceExhaustedError(
                    f"{begin.name} is larger than the {begin.max_size_bytes} bytes announced",
                    "FILE_TOO_LARGE",
                    {"name": begin.name},
                )
            file.write(arrived)
            digest.update(arrived)
    return None, size_bytes, digest.hexdigest()


@contextmanager
def disk_errors(name: str) -> Iterator[None]:
    """Turns the error of a full disk into ResourceExhaustedError POOL_FULL. name: of the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(name) from error


def _full(name: str) -> OstlerError:
    return ResourceExhaustedError(
        f"the pool has no space left for {name} (free some, or delete the staging directory)",
        "POOL_FULL",
        {"name": name},
    )
