"""The base of pool types whose volumes are files in a directory."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, NotFoundError

from ostler_agent.files import fsync_directory, publish
from ostler_agent.pools import fingerprint
from ostler_agent.pools.base import Capacity, PoolSpec, StagedVolume
from ostler_agent.spec import VolumeRef


class DirectoryPool(ABC):
    """A pool whose volumes are files. A type defines the directory, and how to provide it."""

    encryption = True

    @abstractmethod
    def directory(self, spec: PoolSpec) -> Path:
        """The directory of its volumes."""

    def place(self, spec: PoolSpec) -> str:
        return str(self.directory(spec))

    def fingerprint(self, spec: PoolSpec, *, make: bool) -> str | None:
        directory = self.directory(spec)
        try:
            return fingerprint.read_or_make(directory) if make else fingerprint.read_or_none(directory)
        except OSError as error:
            raise FailedPreconditionError(
                f"cannot use {directory}: {error.strerror}", "POOL_PATH_UNUSABLE", {"path": str(directory)}
            ) from error

    def capacity(self, spec: PoolSpec) -> Capacity:
        sizes = os.statvfs(self.directory(spec))
        return Capacity(sizes.f_blocks * sizes.f_frsize, sizes.f_bavail * sizes.f_frsize)

    def store(self, spec: PoolSpec) -> Files:
        return Files(self.directory(spec))


@dataclass(frozen=True)
class Files:
    """Volumes as files named by their ids; a volume under construction has a hidden name."""

    directory: Path

    def path(self, volume: VolumeRef) -> Path:
        return self.directory / volume.volume_id

    def exists(self, volume: VolumeRef) -> bool:
        return os.path.lexists(self.path(volume))

    def identity(self, volume: VolumeRef) -> str:
        return _inode(self.path(volume))

    @contextmanager
    def hold(self, volume: VolumeRef) -> Iterator[Path]:
        if not self.exists(volume):
            raise NotFoundError(
                f"volume {volume.volume_id} is not in its pool", "VOLUME_NOT_FOUND", {"volume": volume.volume_id}
            )
        yield self.path(volume)

    @contextmanager
    def make(self, volume: VolumeRef, size_bytes: int, *, thick: bool) -> Iterator[StagedVolume]:
        self.discard(volume)
        try:
            yield _StagedFile(self._part(volume), self.path(volume))
        finally:
            self.discard(volume)

    def expand(self, volume: VolumeRef, size_bytes: int) -> None:
        """Nothing to do: a file grows as it is written."""

    def delete(self, volume: VolumeRef) -> None:
        self.path(volume).unlink(missing_ok=True)
        self.discard(volume)
        fsync_directory(self.directory)

    def discard(self, volume: VolumeRef) -> None:
        self._part(volume).unlink(missing_ok=True)

    def _part(self, volume: VolumeRef) -> Path:
        return self.directory / f".{volume.volume_id}.part"


@dataclass(frozen=True)
class _StagedFile:
    path: Path
    final: Path

    def identity(self) -> str:
        return _inode(self.path)

    def publish(self) -> None:
        publish(self.path, self.final)


def _inode(path: Path) -> str:
    """The inode, which a rename preserves."""
    return str(path.lstat().st_ino)
