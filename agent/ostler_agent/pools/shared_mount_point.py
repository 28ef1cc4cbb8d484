"""A directory on a file system that the operator has mounted on several hosts (OCFS2, GFS2, CephFS, ...)."""

from __future__ import annotations

from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_agent.pools.base import PoolSpec, check_path, check_unused
from ostler_agent.pools.directory import DirectoryPool


class SharedMountPoint(DirectoryPool):
    interface_version = 1
    name = "shared-mount-point"
    shared = True

    def check(self, spec: PoolSpec) -> None:
        check_path(spec)
        check_unused(spec)

    def directory(self, spec: PoolSpec) -> Path:
        return Path(spec.path)

    def ensure(self, spec: PoolSpec) -> None:
        """Only checks: a directory created here would not be the shared one."""
        if not self.directory(spec).is_dir():
            raise FailedPreconditionError(
                f"{spec.path} is not a directory on this host (mount the shared file system there first)",
                "POOL_PATH_UNUSABLE",
                {"path": spec.path},
            )

    def release(self, spec: PoolSpec) -> None:
        """Nothing to undo."""
