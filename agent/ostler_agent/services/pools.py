"""PoolService."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from ostler.agent.v1 import pool_pb2, pool_pb2_grpc
from ostler_common.secret import Secret

from ostler_agent.jobs import Jobs
from ostler_agent.pools import Pools
from ostler_agent.pools.base import VmLister
from ostler_agent.services import convert


class PoolService(pool_pb2_grpc.PoolServiceServicer):
    """check_not_used: raises for a pool that may not be removed (`Guards.check_not_used`)."""

    def __init__(
        self, jobs: Jobs, pools: Pools, vms: VmLister, check_not_used: Callable[[str], None] = lambda _: None
    ) -> None:
        self._check_not_used = check_not_used
        self._jobs = jobs
        self._pools = pools
        self._vms = vms

    def EnsurePool(self, request: pool_pb2.EnsurePoolRequest, context: grpc.ServicerContext) -> pool_pb2.Pool:
        secret = Secret(request.secret) if request.secret else None
        pool = self._pools.ensure(convert.pool_spec(request.spec), secret)
        self._jobs.resolve_deferred()
        return convert.pool(pool)

    def GetPool(self, request: pool_pb2.GetPoolRequest, context: grpc.ServicerContext) -> pool_pb2.Pool:
        return convert.pool(self._pools.get(convert.uuid_field(request.pool_id, "pool_id")))

    def ListPools(
        self, request: pool_pb2.ListPoolsRequest, context: grpc.ServicerContext
    ) -> pool_pb2.ListPoolsResponse:
        return pool_pb2.ListPoolsResponse(pools=[convert.pool(pool) for pool in self._pools.list()])

    def RemovePool(
        self, request: pool_pb2.RemovePoolRequest, context: grpc.ServicerContext
    ) -> pool_pb2.RemovePoolResponse:
        pool_id = convert.uuid_field(request.pool_id, "pool_id")
        self._check_not_used(pool_id)
        self._pools.remove(pool_id, self._vms)
        return pool_pb2.RemovePoolResponse()
