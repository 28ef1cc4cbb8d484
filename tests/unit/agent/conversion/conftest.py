"""A pool with one staging directory."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from ostler_agent.conversion import StagingDirectories, StagingRef
from ostler_agent.pools import POOL_TYPES, Pools, PoolSpec


@dataclass
class Staged:
    """A staging directory and what manages it."""

    pools: Pools
    staging: StagingDirectories
    ref: StagingRef
    pool: Path

    @property
    def directory(self) -> Path:
        return self.pool / f".staging.{self.ref.staging_id}"


@pytest.fixture
def staged(tmp_path: Path) -> Staged:
    pools = Pools(tmp_path / "state", POOL_TYPES)
    pool_id, staging_id = str(uuid.uuid4()), str(uuid.uuid4())
    pools.ensure(PoolSpec(pool_id, "local", str(tmp_path / "pool")))
    staging = StagingDirectories(pools)
    ref = StagingRef(pool_id, staging_id)
    staging.create(ref)
    return Staged(pools, staging, ref, tmp_path / "pool")
