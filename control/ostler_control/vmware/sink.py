"""Where an export's files go: under `.part` while they grow, under their own names once they are whole and checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Digest:
    """Size and digests (hex) of a file."""

    size_bytes: int
    sha1: str
    sha256: str


class Hasher:
    """Makes a Digest of data as it passes."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets all so far."""
        self.size_bytes = 0
        self._sha1 = hashlib.sha1(usedforsecurity=False)  # what leases' manifests have
        self._sha256 = hashlib.sha256()

    def update(self, data: bytes) -> None:
        """Takes the next piece."""
        self.size_bytes += len(data)
        self._sha1.update(data)
        self._sha256.update(data)

    def digest(self) -> Digest:
        """Of all so far."""
        return Digest(self.size_bytes, self._sha1.hexdigest(), self._sha256.hexdigest())


class Part(Protocol):
    """A file that grows. Leaving its block without `finish` closes it; what is there stays a `.part`."""

    def write(self, data: bytes) -> None:
        """Adds to its end."""

    def restart(self) -> None:
        """Makes it empty."""

    def finish(self, digest: Digest) -> None:
        """Gives it its own name, durably. digest: of all that was written."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Sink(Protocol):
    """A directory, here or on a host. Methods raise an OstlerError; calls for different names may run in parallel."""

    def finished(self, name: str) -> Digest | None:
        """The digest of a file that is whole, from an earlier try; None: there is none."""

    def create(self, name: str) -> Part:
        """A new, empty file; what was there of that name is deleted."""


class DirectorySink:
    """A directory of this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def finished(self, name: str) -> Digest | None:
        """See Sink."""
        hasher = Hasher()
        try:
            with (self._directory / name).open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    hasher.update(piece)
        except FileNotFoundError:
            return None
        return hasher.digest()

    def create(self, name: str) -> Part:
        """See Sink."""
        return _FilePart(self._directory / name)


class _FilePart:
    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._file = self._part.open("wb")

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()

    def finish(self, digest: Digest) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
