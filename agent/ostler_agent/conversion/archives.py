"""OVA archives downloaded from an HTTPS server and unpacked into a staging directory as they arrive."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ostler_common import ova
from ostler_common.errors import FailedPreconditionError, NotFoundError, UnavailableError, bad_field

from ostler_agent.conversion.deadline import deadline
from ostler_agent.conversion.disks import MAX_DISKS
from ostler_agent.conversion.staging import StagingDirectories, StagingRef, check_name, part_of
from ostler_agent.conversion.uploads import disk_errors
from ostler_agent.direct_download import DirectSource, Downloader
from ostler_agent.files import publish
from ostler_agent.jobs import JobContext, interrupted

_TRIES = 5
_PHASE = "downloading the archive"


@dataclass(frozen=True)
class ArchiveFile:
    """A file to unpack. staged_name: in the staging directory; size_bytes: that it must have, 0 for any."""

    name: str
    staged_name: str
    size_bytes: int = 0


class Archives:
    """Downloads and unpacks archives; safe to use from many threads."""

    def __init__(self, staging: StagingDirectories, downloader: Downloader | None = None) -> None:
        self._staging = staging
        self._downloader = downloader or Downloader()

    def download(
        self,
        job: JobContext,
        ref: StagingRef,
        source: DirectSource,
        size_bytes: int,
        files: Sequence[ArchiveFile],
        timeout_s: float,
    ) -> None:
        """Unpacks the files; a failed download leaves none. size_bytes: of the archive.

        Raises InvalidArgumentError; FailedPreconditionError (ARCHIVE_INCOMPLETE, FILE_CORRUPT); ResourceExhaustedError
        (POOL_FULL); DeadlineExceededError (DOWNLOAD_TIMEOUT); what `Downloader.read`, `ova.Reader.members` and
        `StagingDirectories.using` raise.
        """
        _check(files)
        wanted = {file.name: file for file in files}
        with self._staging.using(ref) as directory, deadline(job, timeout_s, "download"):
            _delete(directory, files)
            try:
                digests, claims = self._unpack(job, directory, source, size_bytes, wanted)
                missing = wanted.keys() - digests.keys()
                if missing:
                    raise _incomplete(f"it has no file {min(missing)}")
                for name, found in digests.items():
                    ova.check_digest(name, claims.get(name), found)
                for file in files:
                    publish(part_of(directory, file.staged_name), directory / file.staged_name)
            except BaseException:
                _delete(directory, files)
                raise

    def recover(self, ref: StagingRef, files: Sequence[ArchiveFile]) -> None:
        """Undoes a `download` that was running when the agent died. Raises UnavailableError (INTERRUPTED)."""
        try:
            with self._staging.using(ref) as directory:
                _delete(directory, files)
        except NotFoundError:
            pass
        raise interrupted()

    def _unpack(
        self,
        job: JobContext,
        directory: Path,
        source: DirectSource,
        size_bytes: int,
        wanted: Mapping[str, ArchiveFile],
    ) -> tuple[dict[str, ova.Hashers], dict[str, ova.Digest]]:
        """Writes the wanted files under the names of unfinished ones; returns their digests and the claimed ones."""
        digests: dict[str, ova.Hashers] = {}
        claims: dict[str, ova.Digest] = {}
        reader = ova.Reader(_Stream(self._pieces(job, source, size_bytes)).read)
        for member in reader.members():
            file = wanted.get(member.name)
            if member.name.lower().endswith(".mf"):
                claims |= ova.parse_manifest(ova.read_small(reader, member, ova.MAX_MANIFEST_BYTES))
            elif file is not None:
                if file.size_bytes not in (0, member.size_bytes):
                    raise _incomplete(f"{member.name} has {member.size_bytes} bytes now, and had {file.size_bytes}")
                digests[member.name] = _write(part_of(directory, file.staged_name), reader)
        return digests, claims

    def _pieces(self, job: JobContext, source: DirectSource, size_bytes: int) -> Iterator[bytes]:
        """The archive's bytes. A connection that breaks is resumed where it broke, some times without progress."""
        offset = tries = 0
        while offset < size_bytes:
            try:
                for piece in self._downloader.read(source, offset, size_bytes):
                    job.check()
                    job.report(_PHASE, offset, size_bytes)
                    offset += len(piece)
                    tries = 0
                    yield piece
                if offset < size_bytes:
                    raise UnavailableError(f"{source.url}: the server ended the file early", "DOWNLOAD_BROKE")
            except UnavailableError:
                tries += 1
                if tries >= _TRIES:
                    raise
                job.check()


class _Stream:
    """Pieces as they come, read in sizes as they are needed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, count: int) -> bytes:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        data, self._rest = self._rest[:count], self._rest[count:]
        return bytes(data)


def _write(path: Path, reader: ova.Reader) -> ova.Hashers:
    hashers = ova.hashers()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with disk_errors(path.name), open(os.open(path, flags, 0o600), "wb") as file:
        for piece in reader.data():
            file.write(piece)
            for hasher in hashers.values():
                hasher.update(piece)
        file.flush()
        os.fsync(file.fileno())
    return hashers


def _delete(directory: Path, files: Sequence[ArchiveFile]) -> None:
    for file in files:
        part_of(directory, file.staged_name).unlink(missing_ok=True)
        (directory / file.staged_name).unlink(missing_ok=True)


def _check(files: Sequence[ArchiveFile]) -> None:
    if not 1 <= len(files) <= MAX_DISKS:
        raise bad_field("files", f"must be 1 to {MAX_DISKS}")
    for number, file in enumerate(files):
        check_name(file.staged_name, f"files[{number}].staged_name")
    if len({file.name for file in files}) < len(files) or len({file.staged_name for file in files}) < len(files):
        raise bad_field("files", "must differ in name and staged_name")


def _incomplete(what: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"the archive is not the one that was inspected: {what}", "ARCHIVE_INCOMPLETE")
