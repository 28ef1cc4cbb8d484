"""Files that lie in a pool under names of their own become volumes, and get those names back.

A file is linked, never copied and never written. So whoever has it open (a QEMU, for a VM that is adopted while it
runs) goes on using the very same file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, bad_field
from ostler_common.image_header import HEAD_BYTES, check_image

from ostler_agent.files import fsync_directory
from ostler_agent.image_header import check_stretching, open_image
from ostler_agent.image_lock import check_not_locked
from ostler_agent.jobs import JobContext
from ostler_agent.pools import Pools, already_exists
from ostler_agent.spec import DiskFormat, Key, VolumeInfo, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_agent.volumes.checks import check_passphrase_given
from ostler_agent.volumes.images import created_by, header_of, info_of, inspect
from ostler_agent.volumes.locks import VolumeLocks

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


class Adoption:
    """Adopts files of a pool of files; safe to use from many threads."""

    def __init__(self, pools: Pools, locks: VolumeLocks) -> None:
        self._pools = pools
        self._locks = locks

    def inspect(
        self, pool_id: str, name: str, disk_format: DiskFormat, key: Key | None, *, in_use: bool = False
    ) -> VolumeInfo:
        """What a file is that may be adopted. in_use: it may be open.

        Raises InvalidArgumentError (INVALID_FIELD, KEY_MISSING); NotFoundError (FILE_NOT_FOUND);
        FailedPreconditionError: VOLUME_IN_USE, FILE_LINKED for a link to it or from it, what `check_image` refuses,
        WRONG_KEY, STAGING_NOT_SUPPORTED for a pool of devices.
        """
        check_passphrase_given(key, "key")
        path = self._path(pool_id, name)
        _check_file(path, name, disk_format, encrypted=key is not None)
        if not in_use:
            check_not_locked(path)
        ref = VolumeRef(pool_id, name, disk_format, key)
        header = header_of(ref, path)
        if key:
            check_stretching(path)
            qemu_img.check_key(path, disk_format, key)
        return info_of(ref, header)

    def adopt(self, job: JobContext, ref: VolumeRef, name: str, *, keep_name: bool = False) -> VolumeInfo:
        """Makes a file the volume `ref`. keep_name: it is open, and keeps its own name beside the volume's. Idempotent.

        Raises what `inspect` raises, AlreadyExistsError (VOLUME_EXISTS), AbortedError (VOLUME_BUSY).
        """
        with self._locks.exclusive(ref):
            path, final = self._path(ref.pool_id, name), self._pools.volume_path(ref)
            if name == ref.volume_id:
                self.inspect(ref.pool_id, name, ref.format, ref.key, in_use=keep_name)
                return inspect(self._pools, ref)
            if self._pools.exists(ref):
                found = created_by(self._pools, ref, job.facts)
            else:
                job.report("adopting the file")
                self.inspect(ref.pool_id, name, ref.format, ref.key, in_use=keep_name)
                job.remember(**self._pools.identity_fact(ref, path))
                job.check()
                try:
                    os.link(path, final, follow_symlinks=False)
                except FileExistsError:
                    raise already_exists(ref) from None
                # Another adoption may have linked the file after this one inspected it; at least one of the two sees
                # the third name.
                if final.lstat().st_nlink != 2:
                    final.unlink()
                    raise _linked(name)
                fsync_directory(final.parent)
                found = inspect(self._pools, ref)
            if not keep_name and path.exists():
                path.unlink()
                fsync_directory(path.parent)
            return found

    def release(self, job: JobContext, ref: VolumeRef, name: str) -> None:
        """Gives a volume's file its own name back; the volume is then none any more. Idempotent.

        Raises FailedPreconditionError (FILE_EXISTS) when another file has that name, VOLUME_IN_USE while it is open
        under the volume's name only.
        """
        with self._locks.exclusive(ref):
            path, final = self._path(ref.pool_id, name), self._pools.volume_path(ref)
            if name == ref.volume_id or not self._pools.exists(ref):
                return
            job.report("releasing the file")
            if not path.exists():
                check_not_locked(final)
                os.link(final, path, follow_symlinks=False)
            elif not path.samefile(final):
                raise FailedPreconditionError(
                    f"there is another file named {name} in the pool; move it away", "FILE_EXISTS", {"file": name}
                )
            fsync_directory(path.parent)
            final.unlink()
            fsync_directory(path.parent)

    def _path(self, pool_id: str, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise bad_field(
                "file_name", "must be a file's name in the pool's directory: letters, digits, dots and dashes, no path"
            )
        return self._pools.directory(pool_id) / name


def _check_file(path: Path, name: str, disk_format: DiskFormat, *, encrypted: bool) -> None:
    """Refuses what is no image of that format, or not only this pool's."""
    if path.is_symlink():
        raise FailedPreconditionError(f"{name} is a link to another file", "FILE_LINKED", {"file": name})
    if not path.exists():
        raise NotFoundError(f"there is no file {name} in the pool", "FILE_NOT_FOUND", {"file": name})
    file = open_image(path)
    try:
        status = os.fstat(file)
        head = os.pread(file, HEAD_BYTES, 0)
    finally:
        os.close(file)
    if status.st_nlink > 1:
        raise _linked(name)
    try:
        check_image(head, status.st_size, disk_format, encrypted)
    except InvalidArgumentError as error:
        raise FailedPreconditionError(f"{name}: {error.message}", error.reason, {"file": name}) from None


def _linked(name: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"{name} has other names, too, so that somebody else may change it (remove the other links)",
        "FILE_LINKED",
        {"file": name},
    )
