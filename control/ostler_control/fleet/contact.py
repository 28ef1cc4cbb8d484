"""What the watcher tells a host in contact with it: its pools, and what to trust; and why there is no contact."""

from __future__ import annotations

import asyncio

import grpc
import structlog
from ostler.agent.v1 import host_pb2, host_pb2_grpc, pool_pb2, pool_pb2_grpc
from ostler_common.errors import from_rpc_error

from ostler_control.fleet.watch import Watch
from ostler_control.keys import Keyring
from ostler_control.pools import reach
from ostler_control.trust.revocation import TrustBundle

log = structlog.get_logger(__name__)


async def ensure_pool(watch: Watch, spec: pool_pb2.PoolSpec, keys: Keyring) -> pool_pb2.Pool:
    """Sends a pool's password when the agent needs it: after its restart, or when the password was changed."""
    stub = pool_pb2_grpc.PoolServiceStub(watch.channel)  # type: ignore[no-untyped-call,arg-type,unused-ignore]
    try:
        return await stub.EnsurePool(pool_pb2.EnsurePoolRequest(spec=spec))
    except grpc.aio.AioRpcError:
        # Not in the database's thread: the key may be with a remote provider, which takes its time.
        password = await asyncio.to_thread(reach.password_of, spec.pool_id, keys)
        if password is None:
            raise
        return await stub.EnsurePool(pool_pb2.EnsurePoolRequest(spec=spec, secret=password.reveal()))


async def push_trust(watch: Watch, bundle: TrustBundle) -> None:
    """Tells a host that is heard what to trust now."""
    if not bundle.is_news or watch.channel is None:
        return
    request = host_pb2.UpdateTrustRequest(
        ca_pem=bundle.ca_pem, crl_pem=bundle.crl_pem, control_address=bundle.control_address
    )
    try:
        await host_pb2_grpc.HostServiceStub(watch.channel).UpdateTrust(request)
    except grpc.aio.AioRpcError as error:
        # It gets them when it is back: contact begins with it.
        reason = from_rpc_error(error).message
        log.warning("a host was not told what to trust and where to call", host=watch.host.name, reason=reason)


def cause(message: str) -> str:
    """The cause at the end of gRPC's long message about a connection."""
    return message.rpartition("Failed to connect to remote host: ")[2]
