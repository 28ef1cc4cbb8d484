"""Staging directories: where the files of an import wait to be converted."""

from __future__ import annotations

import os
import re
import shutil
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import AbortedError, NotFoundError, bad_field

from ostler_agent.files import fsync_directory
from ostler_agent.pools import Pools

MAX_FILES = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
IMAGE_SUFFIXES = frozenset({".vmdk", ".qcow2", ".raw", ".img", ".vhdx", ".vdi"})
_SUFFIXES = IMAGE_SUFFIXES | {".ovf", ".mf", ".iso", ".nvram"}


@dataclass(frozen=True)
class StagingRef:
    """Names a staging directory: the pool that it is in, and the import's UUID."""

    pool_id: str
    staging_id: str


@dataclass(frozen=True)
class StagedFile:
    """A file in a staging directory. size_bytes: what is there of it; complete: whether that is all."""

    name: str
    size_bytes: int
    complete: bool


@dataclass(frozen=True)
class Staging:
    """A staging directory. available_bytes: free in its pool."""

    ref: StagingRef
    available_bytes: int
    files: tuple[StagedFile, ...]


def is_staged_name(name: str) -> bool:
    """Whether a file of a staging directory may have that name; none of them leads out of it."""
    return bool(_NAME.fullmatch(name)) and Path(name).suffix.lower() in _SUFFIXES


def check_name(name: str, field: str) -> None:
    """Raises InvalidArgumentError (INVALID_FIELD) for a name that no staged file may have."""
    if not is_staged_name(name):
        raise bad_field(
            field,
            "must be 1 to 128 of A-Z a-z 0-9 . _ - beginning with a letter or digit, and end in one of "
            f"{' '.join(sorted(_SUFFIXES))}",
        )


def part_of(directory: Path, name: str) -> Path:
    """Where a file is while it is received."""
    return directory / f".{name}.part"


def check_staged(directory: Path, name: str) -> None:
    """Raises NotFoundError (FILE_NOT_FOUND)."""
    if not is_regular(directory / name):
        raise NotFoundError(f"{name} is not in the staging directory", "FILE_NOT_FOUND", {"file": name})


def is_regular(path: Path) -> bool:
    """Whether there is a file, and not a link to one or anything else."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


class StagingDirectories:
    """The staging directories of this host's pools; safe to use from many threads."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._users: Counter[StagingRef] = Counter()
        self._deleting: set[StagingRef] = set()
        self._lock = threading.Lock()

    def create(self, ref: StagingRef, needed_bytes: int = 0) -> Staging:
        """Creates a directory; one that is there already is a success.

        Raises NotFoundError (POOL_NOT_FOUND), FailedPreconditionError (STAGING_NOT_SUPPORTED), ResourceExhaustedError
        (POOL_FULL) when the pool has not the needed space free, and what `Pools.exists` raises.
        """
        if needed_bytes:
            self._pools.check_free_space(ref.pool_id, needed_bytes)
        path = self._path(ref)
        path.mkdir(mode=0o700, exist_ok=True)
        fsync_directory(path.parent)
        return self.inspect(ref)

    def inspect(self, ref: StagingRef) -> Staging:
        """What is in a directory. Raises as `using` does."""
        path = self._existing(ref)
        with os.scandir(path) as entries:
            files = [_staged_file(entry) for entry in entries if entry.is_file(follow_symlinks=False)]
        available_bytes = self._pools.get(ref.pool_id).available_bytes
        known = sorted((file for file in files if is_staged_name(file.name)), key=lambda file: file.name)
        return Staging(ref, available_bytes, tuple(known))

    def delete(self, ref: StagingRef) -> None:
        """Deletes a directory with all that is in it; none is a success.

        Raises AbortedError (STAGING_BUSY) while something here uses it, and as `create` does.
        """
        path = self._path(ref)
        with self._lock:
            if self._users[ref]:
                raise _busy(ref)
            self._deleting.add(ref)
        try:
            if path.exists():
                shutil.rmtree(path)
                fsync_directory(path.parent)
        finally:
            with self._lock:
                self._deleting.discard(ref)

    @contextmanager
    def using(self, ref: StagingRef) -> Iterator[Path]:
        """The directory, which stays while the block lasts.

        Raises NotFoundError (STAGING_NOT_FOUND), AbortedError (STAGING_BUSY) while it is being deleted, and as
        `create` does.
        """
        with self._lock:
            if ref in self._deleting:
                raise _busy(ref)
            self._users[ref] += 1
        try:
            yield self._existing(ref)
        finally:
            with self._lock:
                self._users[ref] -= 1
                self._users += Counter()  # forgets those at 0

    def _existing(self, ref: StagingRef) -> Path:
        path = self._path(ref)
        if path.is_symlink() or not path.is_dir():
            raise NotFoundError(
                f"pool {ref.pool_id} has no staging directory {ref.staging_id} (create it first)",
                "STAGING_NOT_FOUND",
                {"pool": ref.pool_id, "staging": ref.staging_id},
            )
        return path

    def _path(self, ref: StagingRef) -> Path:
        return self._pools.directory(ref.pool_id) / f".staging.{ref.staging_id}"


def _staged_file(entry: os.DirEntry[str]) -> StagedFile:
    complete = not entry.name.startswith(".")
    name = entry.name if complete else entry.name.removeprefix(".").removesuffix(".part")
    return StagedFile(name, entry.stat(follow_symlinks=False).st_size, complete)


def _busy(ref: StagingRef) -> AbortedError:
    return AbortedError(
        f"staging directory {ref.staging_id} is in use (try again when its upload or job is over)",
        "STAGING_BUSY",
        {"staging": ref.staging_id},
    )
