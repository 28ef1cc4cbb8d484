"""A pool type in a process that kills itself while a volume is under construction; run as a module.

Reads pickled `PoolOrders` from stdin.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from dataclasses import dataclass

from ostler_common.secret import Secret

from ostler_agent.pools import PoolSpec, registry
from ostler_agent.pools.base import NeedsSecret
from ostler_agent.spec import VolumeRef


@dataclass(frozen=True)
class PoolOrders:
    """What the process does: stages the volume, writes to it, and kills itself. secret: "" for none."""

    name: str
    spec: PoolSpec
    secret: bytes
    volume: VolumeRef
    size_bytes: int


def main() -> None:
    orders: PoolOrders = pickle.load(sys.stdin.buffer)
    pool_type = registry.load(orders.name)
    if orders.secret and isinstance(pool_type, NeedsSecret):
        pool_type.set_secret(orders.spec, Secret(orders.secret))
    pool_type.ensure(orders.spec)
    with pool_type.store(orders.spec).make(orders.volume, orders.size_bytes, thick=False) as staged:
        with staged.path.open("r+b" if staged.path.exists() else "wb") as file:
            file.write(b"unfinished")
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
