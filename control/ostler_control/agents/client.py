"""Channels to agents, one per host, and unary calls over them."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import grpc
from ostler.agent.v1 import (
    adoption_pb2_grpc,
    conversion_pb2_grpc,
    host_pb2_grpc,
    job_pb2_grpc,
    pool_pb2_grpc,
    remote_kvm_pb2_grpc,
    vm_pb2_grpc,
    volume_pb2_grpc,
)
from ostler_common.channel import host_server_name, open_channel_of_own_thread
from ostler_common.errors import OstlerError, UnavailableError, from_rpc_error
from ostler_common.tls import TlsFiles

from ostler_control.agents.silence import SilenceWatch

Request = TypeVar("Request")
Response = TypeVar("Response")

# Codes of gRPC itself for a broken connection; an answer of the agent carries a reason of its own.
_TRANSPORT = {"UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}


@dataclass(frozen=True)
class HostAddress:
    """Where a host's agent answers. address: "host:port"."""

    host_id: str
    name: str
    address: str


class Agent:
    """The services of one host's agent. A stub makes an object for each of its methods, and most are never called: so
    each is made when it is first asked for."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    @cached_property
    def host(self) -> host_pb2_grpc.HostServiceStub:
        return host_pb2_grpc.HostServiceStub(self._channel)

    @cached_property
    def jobs(self) -> job_pb2_grpc.JobServiceStub:
        return job_pb2_grpc.JobServiceStub(self._channel)

    @cached_property
    def pools(self) -> pool_pb2_grpc.PoolServiceStub:
        return pool_pb2_grpc.PoolServiceStub(self._channel)

    @cached_property
    def volumes(self) -> volume_pb2_grpc.VolumeServiceStub:
        return volume_pb2_grpc.VolumeServiceStub(self._channel)

    @cached_property
    def vms(self) -> vm_pb2_grpc.VmServiceStub:
        return vm_pb2_grpc.VmServiceStub(self._channel)

    @cached_property
    def conversion(self) -> conversion_pb2_grpc.ConversionServiceStub:
        return conversion_pb2_grpc.ConversionServiceStub(self._channel)

    @cached_property
    def adoption(self) -> adoption_pb2_grpc.AdoptionServiceStub:
        return adoption_pb2_grpc.AdoptionServiceStub(self._channel)

    @cached_property
    def remote_kvm(self) -> remote_kvm_pb2_grpc.RemoteKvmServiceStub:
        return remote_kvm_pb2_grpc.RemoteKvmServiceStub(self._channel)

    @cached_property
    def migration(self) -> vm_pb2_grpc.MigrationServiceStub:
        return vm_pb2_grpc.MigrationServiceStub(self._channel)


@dataclass
class _Connection:
    channel: grpc.Channel
    agent: Agent
    made_for: object


def broken(error: OstlerError) -> bool:
    """Whether a call failed because the agent could not be reached or not now, so that repeating it may help."""
    return error.code == "UNAVAILABLE" or (error.reason == "RPC" and error.code in _TRANSPORT)


def unreachable(host: HostAddress, error: OstlerError) -> UnavailableError:
    """The error for a host that does not answer."""
    return UnavailableError(
        f"host {host.name} cannot be reached: {error.message} (check that it runs, its agent, and the network)",
        "HOST_UNREACHABLE",
        {"host": host.name},
    )


@dataclass
class Agents:
    """All agents of the fleet, reached with the control plane's identity.

    unreachable_limit_s: how long a job's caller keeps trying a host that does not answer.
    """

    tls: TlsFiles
    unreachable_limit_s: float = 120.0
    connect: Callable[[str, TlsFiles, str], grpc.Channel] = open_channel_of_own_thread
    _connections: dict[str, _Connection] = field(default_factory=dict)
    _busy: Counter[str] = field(default_factory=Counter)
    silence: SilenceWatch = field(default_factory=SilenceWatch)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def at(self, host: HostAddress) -> Agent:
        """The host's agent; opens a channel when there is none for its address and our present certificate."""
        made_for = (host.address, self.tls.version())
        with self._lock:
            connection = self._connections.get(host.host_id)
            if connection is None or connection.made_for != made_for:
                # The old channel ends by itself when the calls on it have: closing it here would cut them.
                channel = self.connect(host.address, self.tls, host_server_name(host.host_id))
                connection = _Connection(channel, Agent(channel), made_for)
                self._connections[host.host_id] = connection
            return connection.agent

    def forget(self, host: HostAddress) -> None:
        """Opens a new channel at the next call."""
        with self._lock:
            self._connections.pop(host.host_id, None)

    def busy(self, host_id: str) -> int:
        """How many jobs of this process the host runs now."""
        with self._lock:
            return self._busy[host_id]

    @contextlib.contextmanager
    def job(self, host: HostAddress) -> Iterator[None]:
        """Counts as a job of the host while inside."""
        with self._lock:
            self._busy[host.host_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy[host.host_id] -= 1

    def close(self) -> None:
        """Closes every channel; running calls end."""
        with self._lock:
            connections, self._connections = list(self._connections.values()), {}
        for connection in connections:
            connection.channel.close()

    def call(
        self,
        host: HostAddress,
        method: Callable[[Agent], Callable[..., Response]],
        request: Any,
        deadline_s: float = 30.0,
    ) -> Response:
        """One unary call: `agents.call(host, lambda agent: agent.vms.GetVm, request)`.

        Raises the agent's OstlerError; UnavailableError HOST_UNREACHABLE when it does not answer in time.
        """
        try:
            return method(self.at(host))(request, timeout=deadline_s)
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            if error.reason == "RPC" and broken(error):
                self.forget(host)
                raise unreachable(host, error) from None
            raise error from None
