"""An NFS export that the agent mounts."""

from __future__ import annotations

import re
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, bad_field

from ostler_agent.pools.base import PoolSpec, check_path, check_unused
from ostler_agent.pools.directory import DirectoryPool
from ostler_agent.process import RunError, run
from ostler_agent.tools.mounts import MOUNT_TIMEOUT_S, MOUNTINFO, mounts, unmount

MOUNT_DIR = Path("/var/lib/ostler/mounts")  # QEMU must be able to traverse it: not below the agent's private state
_SOURCE = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*):/[^\s,]*")
_MOUNT_OPTIONS = re.compile(r"[A-Za-z0-9_]+(=[A-Za-z0-9_.:/@+-]+)?(,[A-Za-z0-9_]+(=[A-Za-z0-9_.:/@+-]+)?)*")
_ALWAYS = ("nosuid", "nodev", "noexec")


class Nfs(DirectoryPool):
    interface_version = 1
    name = "nfs"
    shared = True

    def __init__(self, mount_dir: Path = MOUNT_DIR, mountinfo: Path = MOUNTINFO) -> None:
        self._mount_dir = mount_dir
        self._mountinfo = mountinfo

    def check(self, spec: PoolSpec) -> None:
        check_unused(spec, source=True, options=frozenset({"mount_options"}))
        if spec.path:
            check_path(spec, mount_point=True)
        if not _SOURCE.fullmatch(spec.source):
            raise bad_field("spec.source", 'must be "server:/export"')
        if not _MOUNT_OPTIONS.fullmatch(spec.options.get("mount_options", "rw")):
            raise bad_field("spec.options", 'mount_options must be like "vers=4.2,nconnect=4"')

    def directory(self, spec: PoolSpec) -> Path:
        return Path(spec.path) if spec.path else self._mount_dir / spec.pool_id

    def ensure(self, spec: PoolSpec) -> None:
        """Mounts the export unless it is mounted there already."""
        directory = self.directory(spec)
        if self._is_mounted(spec):
            return
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            run(mount_command(spec, directory), timeout_s=MOUNT_TIMEOUT_S)
        except RunError as error:
            raise FailedPreconditionError(
                f"cannot mount {spec.source}: {error.stderr.strip()}",
                "POOL_MOUNT_FAILED",
                {"source": spec.source, "path": str(directory)},
            ) from error

    def release(self, spec: PoolSpec) -> None:
        """Unmounts, and removes a mount point that the agent created."""
        directory = self.directory(spec)
        if self._is_mounted(spec):
            try:
                unmount(directory)
            except RunError as error:
                raise FailedPreconditionError(
                    f"cannot unmount {directory}: {error.stderr.strip()}",
                    "POOL_UNMOUNT_FAILED",
                    {"path": str(directory)},
                ) from error
        if not spec.path and directory.is_dir():
            directory.rmdir()

    def _is_mounted(self, spec: PoolSpec) -> bool:
        directory = self.directory(spec)
        here = [mount for mount in mounts(self._mountinfo) if mount.path == directory]
        if not here:
            return False
        top = here[-1]
        if top.fs_type not in ("nfs", "nfs4") or top.source.rstrip("/") != spec.source.rstrip("/"):
            raise FailedPreconditionError(
                f"{top.source} ({top.fs_type}) is mounted on {directory}, not {spec.source} (unmount it first)",
                "POOL_PATH_UNUSABLE",
                {"path": str(directory)},
            )
        return True


def mount_command(spec: PoolSpec, directory: Path) -> list[str]:
    """The mount(8) command for a pool that passed `check`."""
    options = [*_ALWAYS, spec.options["mount_options"]] if "mount_options" in spec.options else _ALWAYS
    return ["mount", "-t", "nfs", "-o", ",".join(options), "--", spec.source, str(directory)]
