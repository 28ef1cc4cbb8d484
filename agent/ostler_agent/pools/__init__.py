"""Storage pools: one module a type, and their keeper."""

from __future__ import annotations

from ostler_agent.pools.base import Capacity, Draft, Pool, PoolSpec, PoolType, Store
from ostler_agent.pools.keeper import Making, Pools, already_exists
from ostler_agent.pools.local import Local
from ostler_agent.pools.nfs import Nfs
from ostler_agent.pools.powerflex import PowerFlex
from ostler_agent.pools.shared_mount_point import SharedMountPoint

POOL_TYPES: tuple[PoolType, ...] = (Local(), SharedMountPoint(), Nfs(), PowerFlex())

__all__ = [
    "POOL_TYPES",
    "Capacity",
    "Draft",
    "Making",
    "Pool",
    "PoolSpec",
    "PoolType",
    "Pools",
    "Store",
    "already_exists",
]
