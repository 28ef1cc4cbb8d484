"""A bucket of an S3-compatible store. This host has only a spool: a directory with files that are being sent or read.

The control plane knows the keys of the bucket. It signs a URL for each object that the host may put or get.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, bad_field

from ostler_agent.jobs import JobContext
from ostler_agent.pools import objects
from ostler_agent.pools.base import PoolSpec, check_path, check_unused
from ostler_agent.pools.directory import DirectoryPool, Files
from ostler_agent.spec import RemoteObject, VolumeRef

SPOOL_DIR = Path("/var/lib/ostler/spool")  # QEMU must be able to traverse it
_SOURCE = re.compile(r"https://[A-Za-z0-9.:\[\]-]{1,300}/[A-Za-z0-9._/-]{1,300}")


class S3(DirectoryPool):
    interface_version = 1
    name = "s3"
    shared = True

    def __init__(self, spool_dir: Path = SPOOL_DIR) -> None:
        self._spool_dir = spool_dir
        self._cleared: set[str] = set()
        self._lock = threading.Lock()

    def check(self, spec: PoolSpec) -> None:
        check_unused(spec, source=True)
        if spec.path:
            check_path(spec)
        if not _SOURCE.fullmatch(spec.source):
            raise bad_field("spec.source", 'must be "https://HOST/BUCKET" or "https://HOST/BUCKET/PREFIX"')

    def directory(self, spec: PoolSpec) -> Path:
        return Path(spec.path) if spec.path else self._spool_dir / spec.pool_id

    def ensure(self, spec: PoolSpec) -> None:
        """Creates the spool."""
        directory = self.directory(spec)
        try:
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise FailedPreconditionError(
                f"cannot use the spool {directory}: {error.strerror}", "POOL_PATH_UNUSABLE", {"path": str(directory)}
            ) from error

    def release(self, spec: PoolSpec) -> None:
        """Removes a spool that the agent created, if nothing is in it."""
        directory = self.directory(spec)
        if not spec.path and directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()

    def fingerprint(self, spec: PoolSpec, *, make: bool) -> str | None:
        """Of the bucket: every host has a spool of its own."""
        if not self.directory(spec).is_dir():
            return None
        return hashlib.sha256(spec.source.encode()).hexdigest()[:32]

    def store(self, spec: PoolSpec) -> Spool:
        """At its first use the downloads are removed that an agent left behind when it was killed."""
        with self._lock:
            if spec.pool_id not in self._cleared:
                for path in self.directory(spec).glob(".*.download"):
                    path.unlink(missing_ok=True)
                self._cleared.add(spec.pool_id)
        return Spool(self.directory(spec))


@dataclass(frozen=True)
class Spool(Files):
    """Files that are to be sent, like those of a directory, and such as are downloaded for as long as they are read."""

    @contextmanager
    def fetch(self, volume: VolumeRef, remote: RemoteObject, job: JobContext) -> Iterator[Path]:
        """Yields a copy of an object, which is removed at the end of the block. Raises what `objects.get` raises."""
        path = self.directory / f".{volume.volume_id}.{secrets.token_hex(4)}.download"
        try:
            objects.get(remote, path, job)
            yield path
        finally:
            path.unlink(missing_ok=True)
