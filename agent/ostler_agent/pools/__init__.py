"""Storage pools: one module per type, and the manager of a host's pools."""

from __future__ import annotations

from ostler_agent.pools.base import Capacity, Pool, PoolSpec, PoolType, StagedVolume, Store
from ostler_agent.pools.local import Local
from ostler_agent.pools.manager import Pools, Staging, already_exists
from ostler_agent.pools.nfs import Nfs
from ostler_agent.pools.powerflex import PowerFlex
from ostler_agent.pools.s3 import S3
from ostler_agent.pools.shared_mount_point import SharedMountPoint

POOL_TYPES: tuple[PoolType, ...] = (Local(), SharedMountPoint(), Nfs(), PowerFlex(), S3())

__all__ = [
    "POOL_TYPES",
    "Capacity",
    "Pool",
    "PoolSpec",
    "PoolType",
    "Pools",
    "StagedVolume",
    "Staging",
    "Store",
    "already_exists",
]
