"""Volumes as the images that they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ostler_agent.image_header import ImageHeader, read_header
from ostler_agent.pools import Pools, already_exists
from ostler_agent.spec import VolumeInfo, VolumeRef


def header_of(ref: VolumeRef, path: Path) -> ImageHeader:
    """Raises what `read_header` does."""
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


def made_by(pools: Pools, ref: VolumeRef, facts: Mapping[str, str]) -> VolumeInfo:
    """The volume when the job with these facts made it. Raises AlreadyExistsError (VOLUME_EXISTS)."""
    if not pools.made_by(ref, facts):
        raise already_exists(ref)
    return look(pools, ref)


def look(pools: Pools, ref: VolumeRef) -> VolumeInfo:
    """Raises NotFoundError (VOLUME_NOT_FOUND), and what `read_header` does."""
    with pools.hold(ref) as path:
        return info_of(ref, header_of(ref, path))
