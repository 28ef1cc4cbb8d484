"""Volumes as disk images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ostler_common.errors import FailedPreconditionError

from ostler_agent.image_header import ImageHeader, read_header
from ostler_agent.jobs import JobContext
from ostler_agent.pools import Pools, already_exists
from ostler_agent.spec import Provisioning, VolumeInfo, VolumeRef
from ostler_agent.tools import qemu_img


def header_of(ref: VolumeRef, path: Path) -> ImageHeader:
    """Raises what `read_header` raises."""
    return read_header(path, ref.format, encrypted=ref.key is not None)


def info_of(ref: VolumeRef, header: ImageHeader) -> VolumeInfo:
    return VolumeInfo(
        volume_id=ref.volume_id,
        pool_id=ref.pool_id,
        format=header.format,
        encrypted=header.encrypted,
        virtual_size_bytes=header.virtual_size_bytes,
        allocated_bytes=header.allocated_bytes,
    )


def create_like(job: JobContext, header: ImageHeader, ref: VolumeRef, path: Path, provisioning: Provisioning) -> None:
    """Creates an empty image of exactly the size of a running disk, which is what QEMU requires to copy into it.

    Raises what `qemu_img.create` raises; FailedPreconditionError (SIZE_DIFFERS) if a raw image on a device is larger.
    """
    job.report("creating volume", percent=1)
    size_bytes = header.virtual_size_bytes
    qemu_img.create(path, ref.format, size_bytes, key=ref.key, provisioning=provisioning, cancel=job)
    found = header_of(ref, path).virtual_size_bytes
    if found != size_bytes:
        raise FailedPreconditionError(
            f"volume {ref.volume_id} has {found} bytes in its pool, but the running disk has {size_bytes} (stop the "
            "VM, or choose another format or pool)",
            "SIZE_DIFFERS",
            {"volume": ref.volume_id, "size_bytes": str(found)},
        )


def created_by(pools: Pools, ref: VolumeRef, facts: Mapping[str, str]) -> VolumeInfo:
    """The volume if the job with these facts created it. Raises AlreadyExistsError (VOLUME_EXISTS)."""
    if not pools.created_by(ref, facts):
        raise already_exists(ref)
    return inspect(pools, ref)


def inspect(pools: Pools, ref: VolumeRef) -> VolumeInfo:
    """Returns a volume. Raises NotFoundError (VOLUME_NOT_FOUND), and what `read_header` raises."""
    with pools.hold(ref) as path:
        return info_of(ref, header_of(ref, path))
