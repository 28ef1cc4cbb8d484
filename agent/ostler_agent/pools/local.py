"""A directory of this host's own."""

from __future__ import annotations

from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_agent.pools.base import PoolSpec, check_path, check_unused
from ostler_agent.pools.directory import DirectoryPool


class Local(DirectoryPool):
    name = "local"
    shared = False

    def check(self, spec: PoolSpec) -> None:
        check_path(spec)
        check_unused(spec)

    def directory(self, spec: PoolSpec) -> Path:
        return Path(spec.path)

    def ensure(self, spec: PoolSpec) -> None:
        """Makes the directory when it is not there."""
        try:
            # Others may pass, not look: QEMU runs as a user of its own.
            self.directory(spec).mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise FailedPreconditionError(
                f"{spec.path} cannot be made a directory: {error.strerror}", "POOL_PATH_UNUSABLE", {"path": spec.path}
            ) from error

    def release(self, spec: PoolSpec) -> None:
        """Nothing was done that could be undone."""
