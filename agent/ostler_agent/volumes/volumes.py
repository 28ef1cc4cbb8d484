"""Volumes in pools. A volume exists complete or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import InvalidArgumentError, bad_field

from ostler_agent.image_header import is_device, open_image, read_header
from ostler_agent.image_lock import block_writers, check_not_locked
from ostler_agent.jobs import JobContext, interrupted
from ostler_agent.pools import Pools
from ostler_agent.spec import DiskFormat, Provisioning, VolumeInfo, VolumeRef
from ostler_agent.templates import Template, Templates, TemplateSource
from ostler_agent.tools import qemu_img
from ostler_agent.volumes.adoption import Adoption
from ostler_agent.volumes.checks import (
    check_free_space,
    check_grows,
    check_key_matches,
    check_passphrase_given,
    check_size,
)
from ostler_agent.volumes.copies import Copies
from ostler_agent.volumes.disk_copies import DiskCopies
from ostler_agent.volumes.images import created_by, header_of, info_of, inspect
from ostler_agent.volumes.keys import VolumeKeys
from ostler_agent.volumes.locks import VolumeLocks
from ostler_agent.volumes.mirrors import Mirrors
from ostler_agent.volumes.runtime import VmRuntime, check_unused, online_grow
from ostler_agent.volumes.uploads import Uploads

_FETCH_PERCENT = 50
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class VolumeDigest:
    """What a volume's file contains, as stored. sha256: hex."""

    sha256: str
    file_size_bytes: int


class Volumes:
    """Operations on volumes. Thread-safe: one change of a volume at a time.

    copies, disk_copies, mirrors: operations that copy volumes' content to others; uploads: to a store; keys: operations
    on keys; adoption: of files that are no volumes yet; locks: for other operations that change volumes.
    """

    def __init__(self, pools: Pools, templates: Templates, runtime: VmRuntime) -> None:
        self._pools = pools
        self._templates = templates
        self._runtime = runtime
        self.locks = VolumeLocks()
        self.copies = Copies(pools, runtime, self.locks)
        self.disk_copies = DiskCopies(pools, runtime, self.locks)
        self.mirrors = Mirrors(pools, runtime, self.locks)
        self.uploads = Uploads(pools, runtime, self.locks)
        self.keys = VolumeKeys(pools, runtime, self.locks)
        self.adoption = Adoption(pools, self.locks)

    def create(
        self,
        job: JobContext,
        ref: VolumeRef,
        size_bytes: int,
        provisioning: Provisioning = Provisioning.THIN,
        template: TemplateSource | None = None,
    ) -> VolumeInfo:
        """Creates a volume, empty or from a template. With a key it is encrypted; no plaintext copy ever exists.

        If it raises, it leaves nothing behind. Raises InvalidArgumentError (INVALID_FIELD, KEY_MISSING,
        TEMPLATE_LARGER); AlreadyExistsError (VOLUME_EXISTS) unless this operation created it; ResourceExhaustedError
        (POOL_FULL); NotFoundError (POOL_NOT_FOUND); what `Templates.hold` and `Pools.exists` raise.
        """
        check_size(size_bytes)
        check_passphrase_given(ref.key)
        check_passphrase_given(template.key if template else None, "template.key")
        with self.locks.exclusive(ref):
            if self._pools.exists(ref):
                return created_by(self._pools, ref, job.facts)
            if provisioning is Provisioning.THICK:
                check_free_space(self._pools, ref, size_bytes)
            with self._pools.staging(ref, size_bytes, job, provisioning) as staging:
                if template:
                    with self._templates.hold(job, template, _FETCH_PERCENT) as held:
                        self._fill(job, ref, staging.path, size_bytes, provisioning, held)
                else:
                    job.report("creating volume", percent=1)
                    qemu_img.create(
                        staging.path, ref.format, size_bytes, key=ref.key, provisioning=provisioning, cancel=job
                    )
                header = header_of(ref, staging.path)
                staging.commit()
        return info_of(ref, header)

    def grow(self, job: JobContext, ref: VolumeRef, size_bytes: int) -> VolumeInfo:
        """Grows a volume; a running VM that uses it sees the new size at once. Idempotent.

        Raises InvalidArgumentError (SHRINK_REFUSED, KEY_MISSING); FailedPreconditionError (WRONG_KEY, NOT_ENCRYPTED,
        VOLUME_IN_USE, NOT_AN_IMAGE, BACKING_FILE_REFUSED); NotFoundError (VOLUME_NOT_FOUND); ResourceExhaustedError
        (POOL_FULL); what the driver raises.
        """
        check_size(size_bytes)
        with self.locks.exclusive(ref), self._pools.hold(ref) as path:
            header = header_of(ref, path)
            check_key_matches(ref, header)
            check_grows(ref, header.virtual_size_bytes, size_bytes)
            vm_id = self._runtime.using(ref.volume_id)
            if vm_id and self._runtime.running(vm_id):
                grower = online_grow(self._runtime)
                # Also at the same size: an earlier attempt may have grown the volume without the guest.
                job.report("growing the running disk")
                self._pools.expand(ref, size_bytes)
                if ref.format is DiskFormat.RAW and is_device(path):
                    size_bytes = header_of(ref, path).virtual_size_bytes  # the whole device
                grower.grow_disk(vm_id, ref.volume_id, size_bytes)
            elif size_bytes > header.virtual_size_bytes:
                check_passphrase_given(ref.key)
                check_not_locked(path)
                # A thick volume stays thick.
                thick = header.allocated_bytes >= header.virtual_size_bytes > 0
                if thick:
                    check_free_space(self._pools, ref, size_bytes - header.virtual_size_bytes)
                job.report("growing volume")
                self._pools.expand(ref, size_bytes)
                if ref.format is DiskFormat.QCOW2:
                    qemu_img.drop_broken_bitmaps(path, ref.key, job)
                qemu_img.resize(path, ref.format, size_bytes, key=ref.key, allocate=thick, cancel=job)
            return info_of(ref, header_of(ref, path))

    def delete(self, job: JobContext, ref: VolumeRef) -> None:
        """Deletes a volume. Idempotent.

        Raises FailedPreconditionError (VOLUME_IN_USE), NotFoundError (POOL_NOT_FOUND).
        """
        with self.locks.exclusive(ref):
            check_unused(self._runtime, ref)
            if self._pools.exists(ref):
                with self._pools.hold(ref) as path:
                    check_not_locked(path)
            job.report("deleting volume")
            self._pools.delete(ref)

    def info(self, ref: VolumeRef) -> VolumeInfo:
        """Returns a volume. If its passphrase is given, verifies that it opens the volume.

        Raises NotFoundError (VOLUME_NOT_FOUND); FailedPreconditionError (WRONG_KEY, NOT_ENCRYPTED, NOT_AN_IMAGE,
        BACKING_FILE_REFUSED).
        """
        with self._pools.hold(ref) as path:
            header = read_header(path, ref.format, encrypted=True if ref.key else None)
            if ref.key:
                check_key_matches(ref, header)
            if ref.key and ref.key.passphrase:
                qemu_img.check_key(path, ref.format, ref.key)
            return info_of(ref, header)

    def read(self, ref: VolumeRef, offset: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yields a volume's file as stored in the pool, from an offset: pieces in order, each with the file's size.

        Excludes writers meanwhile. Raises InvalidArgumentError (INVALID_FIELD); NotFoundError (VOLUME_NOT_FOUND);
        FailedPreconditionError (VOLUME_IN_USE, NOT_AN_IMAGE); AbortedError (VOLUME_BUSY).
        """
        with self.locks.shared(ref), self._pools.hold(ref) as path:
            yield from self._pieces(ref, path, offset)

    def _pieces(self, ref: VolumeRef, path: Path, offset: int) -> Iterator[tuple[int, bytes]]:
        with ExitStack() as stack:
            check_unused(self._runtime, ref)
            file = open_image(path)
            stack.callback(os.close, file)
            block_writers(file, path)
            size_bytes = os.lseek(file, 0, os.SEEK_END)
            if not 0 <= offset <= size_bytes:
                raise bad_field("offset", f"must be within the file's {size_bytes} bytes")
            yield size_bytes, b""
            while data := os.pread(file, _PIECE_BYTES, offset):
                offset += len(data)
                yield size_bytes, data

    def digest(self, job: JobContext, ref: VolumeRef) -> VolumeDigest:
        """Verifies that the key opens a volume, and reads its whole file. Excludes writers meanwhile.

        Raises what `read` raises, and FailedPreconditionError (WRONG_KEY, NOT_ENCRYPTED).
        """
        digest, done = hashlib.sha256(), 0
        with self.locks.shared(ref), self._pools.hold(ref, job) as path:
            check_key_matches(ref, header_of(ref, path))
            if ref.key and ref.key.passphrase:
                qemu_img.check_key(path, ref.format, ref.key)
            for size_bytes, piece in self._pieces(ref, path, 0):
                digest.update(piece)
                done += len(piece)
                job.check()
                job.report("reading volume", done, size_bytes)
        return VolumeDigest(digest.hexdigest(), done)

    def resolve_interrupted_create(self, ref: VolumeRef, facts: Mapping[str, str]) -> VolumeInfo:
        """Resolves an interrupted `create`: returns the volume if complete, else undoes it.

        Raises UnavailableError INTERRUPTED.
        """
        self._pools.discard(ref)
        if self._pools.exists(ref):
            return created_by(self._pools, ref, facts)
        raise interrupted()

    def resolve_interrupted_grow(self, ref: VolumeRef, size_bytes: int) -> VolumeInfo:
        """Resolves an interrupted `grow`; ref's key may lack its passphrase. Raises UnavailableError INTERRUPTED."""
        found = inspect(self._pools, ref)
        if found.virtual_size_bytes < size_bytes:
            raise interrupted()
        return found

    def resolve_interrupted_delete(self, ref: VolumeRef) -> None:
        """Resolves an interrupted `delete`. Raises UnavailableError INTERRUPTED."""
        if self._pools.exists(ref):
            raise interrupted()

    def _fill(
        self,
        job: JobContext,
        ref: VolumeRef,
        part: Path,
        size_bytes: int,
        provisioning: Provisioning,
        template: Template,
    ) -> None:
        if template.virtual_size_bytes > size_bytes:
            raise InvalidArgumentError(
                f"the template has {template.virtual_size_bytes} bytes and does not fit in {size_bytes}",
                "TEMPLATE_LARGER",
                {"template_size_bytes": str(template.virtual_size_bytes)},
            )
        qemu_img.convert(
            template.path,
            template.format,
            part,
            ref.format,
            source_key=template.key,
            key=ref.key,
            provisioning=provisioning,
            progress=_copying(job, template.virtual_size_bytes),
            cancel=job,
        )
        if size_bytes > template.virtual_size_bytes:
            thick = provisioning is Provisioning.THICK
            qemu_img.resize(part, ref.format, size_bytes, key=ref.key, allocate=thick, cancel=job)


def _copying(job: JobContext, total: int) -> Callable[[float], None]:
    def progress(percent: float) -> None:
        whole = _FETCH_PERCENT + int((99 - _FETCH_PERCENT) * percent / 100)
        job.report("copying template", int(total * percent / 100), total, percent=whole)

    return progress
