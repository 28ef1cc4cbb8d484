"""ostler.control.v1.PoolService."""

from __future__ import annotations

import uuid

import grpc
from ostler.control.v1 import pool_pb2 as pb
from ostler.control.v1 import pool_pb2_grpc
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_control.agents import Agents
from ostler_control.api.caller import caller_of
from ostler_control.api.convert import fleet
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import optional, resolve, visible
from ostler_control.caller import Caller
from ostler_control.database import session
from ostler_control.keys import Keyring
from ostler_control.models import Cluster, Host, Pool, PoolHost, Zone, new_id
from ostler_control.objects import stores
from ostler_control.pools import manage
from ostler_control.scheduling.stores import holds_volumes

_SCOPES: dict[str, type[Host | Cluster | Zone]] = {"host": Host, "cluster": Cluster, "zone": Zone}


class PoolService(pool_pb2_grpc.PoolServiceServicer):
    """CreatePool and DeletePool wait for hosts, so they hold no connection meanwhile."""

    def __init__(self, agents: Agents, keys: Keyring) -> None:
        self._agents = agents
        self._keys = keys

    def CreatePool(self, request: pb.CreatePoolRequest, context: grpc.ServicerContext) -> pb.Pool:
        caller = caller_of(context)
        pool = _new_pool(request, caller)
        verified = manage.verify(self._agents, pool)
        if request.validate_only:
            manage.remove_from_hosts(self._agents, pool.id, pool.scope, pool.scope_id)
            return _draft(pool, verified)
        # What a repeat is known by is kept, as a digest: nobody is to try passwords on that.
        known_by = pb.CreatePoolRequest()
        known_by.CopyFrom(request)
        known_by.ClearField("password")
        with session():
            row = once(Pool, caller, known_by, lambda: manage.create(pool, verified, caller.actor, self._keys))
            return fleet.pools([row])[0]

    def SetPoolPassword(self, request: pb.SetPoolPasswordRequest, context: grpc.ServicerContext) -> pb.Pool:
        if not request.password:
            raise bad_field("password", "is required", reason="REQUIRED")
        with session():
            pool = resolve(Pool, request.pool, "pool")
        changed = manage.set_password(
            self._agents, pool, Secret(request.password), caller_of(context).actor, self._keys
        )
        with session():
            return fleet.pools([changed])[0]

    def DeletePool(self, request: pb.DeletePoolRequest, context: grpc.ServicerContext) -> pb.DeletePoolResponse:
        with session():
            pool = resolve(Pool, request.pool, "pool")
        manage.delete(self._agents, pool, caller_of(context).actor)
        return pb.DeletePoolResponse()

    def GetPool(self, request: pb.GetPoolRequest, context: grpc.ServicerContext) -> pb.Pool:
        with session():
            return fleet.pools([resolve(Pool, request.pool, "pool")])[0]

    def ListPools(self, request: pb.ListPoolsRequest, context: grpc.ServicerContext) -> pb.ListPoolsResponse:
        with session():
            query = visible(Pool, None).where(holds_volumes())
            if host := optional(Host, request.host, "host"):
                reached = PoolHost.select(PoolHost.pool).where(PoolHost.host == host.id, PoolHost.reachable)
                query = query.where(Pool.id.in_(reached))
            query = select(query, Pool, request.selector)
            found = page(query, Pool, request)
            return pb.ListPoolsResponse(pools=fleet.pools(found.rows), next_page_token=found.next_page_token)


def _new_pool(request: pb.CreatePoolRequest, caller: Caller) -> manage.NewPool:
    scope = request.WhichOneof("scope")
    if scope is None:
        raise bad_field("scope", "is required: a host, a cluster or a zone", reason="REQUIRED")
    if not request.type:
        raise bad_field(
            "type", 'is required, e.g. "local", "shared-mount-point", "nfs", "powerflex"', reason="REQUIRED"
        )
    if request.type == stores.TYPE:
        raise bad_field("type", "s3 is for backup stores only (ostler backup store add)", "POOL_TYPE_UNKNOWN")
    with session():
        place = resolve(_SCOPES[scope], getattr(request, scope), scope)
    # A repeat of the request speaks to the hosts of the same pool, and so leaves nothing behind there.
    repeatable = request.request_id and not request.validate_only
    pool_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{caller.id}/{request.request_id}")) if repeatable else new_id()
    return manage.NewPool(
        id=pool_id,
        name=request.name,
        type=request.type,
        scope=scope,
        scope_id=place.id,
        scope_name=place.name,
        path=request.path,
        source=request.source,
        options=dict(request.options),
        password=Secret(request.password) if request.password else None,
    )


def _draft(pool: manage.NewPool, verified: manage.VerifiedPool) -> pb.Pool:
    """What would be made, without an id."""
    return pb.Pool(
        name=pool.name,
        type=pool.type,
        scope=pb.Pool.Scope.Value(pool.scope.upper()),
        scope_id=pool.scope_id,
        scope_name=pool.scope_name,
        path=pool.path,
        source=pool.source,
        options=pool.options,
        shared=verified.shared,
        encryption=verified.encryption,
        capacity_bytes=verified.capacity_bytes,
        available_bytes=verified.available_bytes,
        hosts=[pb.PoolHost(host_id=i, reachable=not reason, reason=reason) for i, reason in verified.reach.items()],
    )
