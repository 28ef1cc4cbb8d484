"""A host's agent as the watcher and the pools see it: says what the test wants it to say."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
from ostler.agent.v1 import host_pb2, host_pb2_grpc, pool_pb2, pool_pb2_grpc
from ostler.types.v1 import host_pb2 as types_host_pb2
from ostler.types.v1 import vm_pb2, volume_pb2
from ostler_common import server, tls
from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function
from ostler_common.tls import TlsFiles


def vm(vm_id: str, power_state: str = "running", *, managed: bool = True) -> vm_pb2.VmInfo:
    """A VM as an agent reports it."""
    state = vm_pb2.PowerState.Value(f"POWER_STATE_{power_state.upper()}")
    return vm_pb2.VmInfo(vm_id=vm_id, name=f"vm-{vm_id[:4]}", power_state=state, cpus=1, managed=managed)


@dataclass
class FakeAgent(host_pb2_grpc.HostServiceServicer, pool_pb2_grpc.PoolServiceServicer):
    """vms: what its next snapshot holds; fingerprint: of every pool's directory; refuse: why no pool can be had;
    password: that a pool of type powerflex needs, and passwords: those that it was given, by pool."""

    credentials: TlsFiles
    vms: list[vm_pb2.VmInfo] = field(default_factory=list)
    fingerprint: str = "f"
    shared: bool = True
    encryption: bool = True
    refuse: str = ""
    hypervisor_type: str = "kvm"
    port: int = 0
    password: bytes = b"right"
    passwords: dict[str, bytes] = field(default_factory=dict)
    pools: set[str] = field(default_factory=set)
    lists: list[bytes] = field(default_factory=list)
    control_address: str = ""
    streams: list[queue.Queue[host_pb2.HostUpdate | None]] = field(default_factory=list)

    @contextlib.contextmanager
    def serving(self, port: int = 0) -> Iterator[None]:
        """Listens; at the end every stream is cut."""
        running = server.serve(
            f"127.0.0.1:{port}",
            credentials=tls.server_credentials(self.credentials),
            services={
                "ostler.agent.v1.HostService": lambda s: host_pb2_grpc.add_HostServiceServicer_to_server(self, s),
                "ostler.agent.v1.PoolService": lambda s: pool_pb2_grpc.add_PoolServiceServicer_to_server(self, s),
            },
            authorize=None,
            workers=8,
        )
        self.port = running.port
        try:
            yield
        finally:
            for stream in self.streams:
                stream.put(None)
            running.stop(0).wait()

    def say(self, update: host_pb2.HostUpdate) -> None:
        """To whoever watches now."""
        self.streams[-1].put(update)

    def event(self, kind: int, info: vm_pb2.VmInfo, detail: str = "") -> None:
        self.say(host_pb2.HostUpdate(vm_event=host_pb2.VmEvent(kind=kind, vm=info, detail=detail)))  # type: ignore[arg-type]

    def capabilities(self) -> types_host_pb2.Capabilities:
        return types_host_pb2.Capabilities(
            hypervisor_type=self.hypervisor_type,
            hypervisor_display_name=self.hypervisor_type.upper(),
            template_formats=[volume_pb2.DISK_FORMAT_QCOW2, volume_pb2.DISK_FORMAT_RAW],
            functions=sorted(Function),
            cpus=8,
            memory_bytes=16 << 30,
            volume_encryption=self.encryption,
            bridges=["br0"],
        )

    def WatchHost(
        self, request: host_pb2.WatchHostRequest, context: grpc.ServicerContext
    ) -> Iterator[host_pb2.HostUpdate]:
        stream: queue.Queue[host_pb2.HostUpdate | None] = queue.Queue()
        self.streams.append(stream)
        context.add_callback(lambda: stream.put(None))
        host = host_pb2.Host(agent_version="0.1.9", capabilities=self.capabilities())
        yield host_pb2.HostUpdate(snapshot=host_pb2.HostSnapshot(host=host, vms=self.vms))
        while (update := stream.get()) is not None:
            yield update

    def GetHost(self, request: host_pb2.GetHostRequest, context: grpc.ServicerContext) -> host_pb2.Host:
        return host_pb2.Host(agent_version="0.1.9", capabilities=self.capabilities())

    def ProbeCapabilities(
        self, request: host_pb2.ProbeCapabilitiesRequest, context: grpc.ServicerContext
    ) -> types_host_pb2.Capabilities:
        return self.capabilities()

    def UpdateTrust(
        self, request: host_pb2.UpdateTrustRequest, context: grpc.ServicerContext
    ) -> host_pb2.UpdateTrustResponse:
        self.lists.append(request.crl_pem)
        self.control_address = request.control_address
        return host_pb2.UpdateTrustResponse()

    def KeepGuard(self, request: host_pb2.KeepGuardRequest, context: grpc.ServicerContext) -> host_pb2.Guard:
        return host_pb2.Guard(state=host_pb2.Guard.ABSENT)

    def ReadLease(self, request: host_pb2.ReadLeaseRequest, context: grpc.ServicerContext) -> host_pb2.Lease:
        raise FailedPreconditionError("no lease can be read", "LEASE_UNREADABLE")

    def EnsurePool(self, request: pool_pb2.EnsurePoolRequest, context: grpc.ServicerContext) -> pool_pb2.Pool:
        if self.refuse:
            raise FailedPreconditionError(self.refuse, "NOT_MOUNTED")
        if request.spec.type == "powerflex":
            if request.secret:
                self.passwords[request.spec.pool_id] = request.secret
            if self.passwords.get(request.spec.pool_id) != self.password:
                raise FailedPreconditionError("the agent has no password", "POOL_NEEDS_CREDENTIALS")
        self.pools.add(request.spec.pool_id)
        return self._pool(request.spec)

    def GetPool(self, request: pool_pb2.GetPoolRequest, context: grpc.ServicerContext) -> pool_pb2.Pool:
        return self._pool(pool_pb2.PoolSpec(pool_id=request.pool_id))

    def ListPools(
        self, request: pool_pb2.ListPoolsRequest, context: grpc.ServicerContext
    ) -> pool_pb2.ListPoolsResponse:
        specs = [pool_pb2.PoolSpec(pool_id=pool_id) for pool_id in sorted(self.pools)]
        return pool_pb2.ListPoolsResponse(pools=map(self._pool, specs))

    def _pool(self, spec: pool_pb2.PoolSpec) -> pool_pb2.Pool:
        return pool_pb2.Pool(
            spec=spec,
            shared=self.shared,
            encryption=self.encryption,
            capacity_bytes=100,
            available_bytes=40,
            fingerprint=self.fingerprint,
        )

    def RemovePool(
        self, request: pool_pb2.RemovePoolRequest, context: grpc.ServicerContext
    ) -> pool_pb2.RemovePoolResponse:
        self.pools.discard(request.pool_id)
        return pool_pb2.RemovePoolResponse()
