"""A directory on this host."""

from __future__ import annotations

from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_agent.pools.base import PoolSpec, check_path, check_unused
from ostler_agent.pools.directory import DirectoryPool


class Local(DirectoryPool):
    interface_version = 1
    name = "local"
    shared = False

    def check(self, spec: PoolSpec) -> None:
        check_path(spec)
        check_unused(spec)

    def directory(self, spec: PoolSpec) -> Path:
        return Path(spec.path)

    def ensure(self, spec: PoolSpec) -> None:
        """Creates the directory if it does not exist."""
        try:
            # Others may traverse it but not list it: QEMU runs as another user.
            self.directory(spec).mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise FailedPreconditionError(
                f"cannot create the directory {spec.path}: {error.strerror}", "POOL_PATH_UNUSABLE", {"path": spec.path}
            ) from error

    def release(self, spec: PoolSpec) -> None:
        """Nothing to undo."""
