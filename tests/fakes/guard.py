"""Guardians of hosts in memory, and their leases on storage that hosts share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

import grpc
from grpc_status import rpc_status
from ostler.agent.v1 import host_pb2, host_pb2_grpc
from ostler.types.v1 import host_pb2 as types_pb2
from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError, to_status

# By pool and host.
Leases = dict[tuple[str, str], host_pb2.Lease]


class FakeGuard(host_pb2_grpc.HostServiceServicer):
    """A host's guardian. calls: the pool and stamp of every call; renews: each look at the lease finds a new number;
    blind: this host can read no lease; now: its clock; on_end: called when it ends the VMs."""

    def __init__(self, host_id: str, leases: Leases, on_end: Callable[[], None] = lambda: None) -> None:
        self.host_id = host_id
        self.leases = leases
        self.on_end = on_end
        self.state: host_pb2.Guard.State.ValueType = host_pb2.Guard.OFF
        self.calls: list[tuple[str, str]] = []
        self.pool_id, self.term = "", f"term of {host_id[:8]}"
        self.ends_within_ms = 500
        self.renews, self.blind = False, False
        self.refusal: OstlerError | None = None
        self.answers_state = 0
        self.now, self.ended_at = 0, 0

    def end(self) -> None:
        """Neither storage nor control plane was heard."""
        self.state, self.ended_at = host_pb2.Guard.ENDED, self.now
        self.on_end()

    def lease(self) -> host_pb2.Lease:
        return self.leases[self.pool_id, self.host_id]

    def GetHost(self, request: host_pb2.GetHostRequest, context: grpc.ServicerContext) -> host_pb2.Host:
        return host_pb2.Host(host_id=self.host_id)

    def ProbeCapabilities(
        self, request: host_pb2.ProbeCapabilitiesRequest, context: grpc.ServicerContext
    ) -> types_pb2.Capabilities:
        _missing(context)

    def UpdateTrust(
        self, request: host_pb2.UpdateTrustRequest, context: grpc.ServicerContext
    ) -> host_pb2.UpdateTrustResponse:
        _missing(context)

    def WatchHost(
        self, request: host_pb2.WatchHostRequest, context: grpc.ServicerContext
    ) -> Iterator[host_pb2.HostUpdate]:
        _missing(context)

    def KeepGuard(self, request: host_pb2.KeepGuardRequest, context: grpc.ServicerContext) -> host_pb2.Guard:
        self.calls.append((request.pool_id, request.stamp))
        if self.refusal:
            _abort(context, self.refusal)
        self.now += 1
        if self.state == host_pb2.Guard.ENDED:
            if int(request.stamp.rpartition("/")[2] or 0) > self.ended_at:
                self.state = host_pb2.Guard.GUARDING
        elif request.pool_id:
            self.state, self.pool_id = host_pb2.Guard.GUARDING, request.pool_id
            self.leases.setdefault((self.pool_id, self.host_id), host_pb2.Lease(term=self.term, number=1))
        else:
            self.state, self.pool_id = host_pb2.Guard.OFF, ""
        return host_pb2.Guard(
            state=self.answers_state or self.state,  # type: ignore[arg-type]
            stamp=f"{self.term}/{self.now}",
            term=self.term,
            pool_id=self.pool_id,
            ends_within_ms=self.ends_within_ms,
        )

    def ReadLease(self, request: host_pb2.ReadLeaseRequest, context: grpc.ServicerContext) -> host_pb2.Lease:
        if self.blind:
            _abort(context, FailedPreconditionError("its storage hangs", "LEASE_UNREADABLE"))
        found = self.leases.get((request.pool_id, request.host_id))
        if found is None:
            _abort(context, NotFoundError("no lease", "LEASE_NOT_FOUND"))
        if self.renews:
            found.number += 1
        return found


def _missing(context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")
    raise AssertionError


def _abort(context: grpc.ServicerContext, error: OstlerError) -> NoReturn:
    context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError
