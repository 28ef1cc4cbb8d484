"""Simulated agents: `python -m tests.bench.fleet.agents DIRECTORY`, a process for many hosts.

Each host listens with TLS on a port of its own under its own certificate, as an agent does. It reports its VMs and
their load, and does what it is asked to do without a hypervisor. Reads `hosts.json`, writes `ports.json`, and ends with
its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
from ostler.agent.v1 import (
    host_pb2,
    host_pb2_grpc,
    pool_pb2,
    pool_pb2_grpc,
    vm_pb2_grpc,
    volume_pb2_grpc,
)
from ostler.agent.v1 import vm_pb2 as agent_vm_pb2
from ostler.agent.v1 import volume_pb2 as agent_volume_pb2
from ostler.types.v1 import host_pb2 as types_host_pb2
from ostler.types.v1 import job_pb2, volume_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler_common.channel import TRANSPORT_OPTIONS
from ostler_common.hypervisors import Function

GIB = 1 << 30
CPUS, MEMORY_BYTES = 64, 256 * GIB
_OPTIONS = (*TRANSPORT_OPTIONS, ("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 10_000))
_CAPABILITIES = types_host_pb2.Capabilities(
    hypervisor_type="kvm",
    hypervisor_display_name="KVM",
    template_formats=[volume_pb2.DISK_FORMAT_QCOW2, volume_pb2.DISK_FORMAT_RAW],
    functions=sorted(Function),
    cpus=CPUS,
    memory_bytes=MEMORY_BYTES,
    volume_encryption=True,
    uefi=True,
    bridges=["br0"],
)


@dataclass
class Host(
    host_pb2_grpc.HostServiceServicer,
    pool_pb2_grpc.PoolServiceServicer,
    volume_pb2_grpc.VolumeServiceServicer,
    vm_pb2_grpc.VmServiceServicer,
):
    """One host. vms: what runs there; starts: how often each VM was started, by the id of the job's operation."""

    host_id: str
    name: str
    vms: set[str]
    work_s: float = 0.0
    starts: dict[str, str] = field(default_factory=dict)
    streams: set[asyncio.Queue[host_pb2.HostUpdate]] = field(default_factory=set)

    async def WatchHost(
        self, request: host_pb2.WatchHostRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[host_pb2.HostUpdate]:
        updates: asyncio.Queue[host_pb2.HostUpdate] = asyncio.Queue()
        self.streams.add(updates)
        interval_s = request.load_interval_ms / 1000
        try:
            host = host_pb2.Host(
                host_id=self.host_id, hostname=self.name, agent_version="0.1.9", capabilities=_CAPABILITIES
            )
            vms = [_running(vm_id) for vm_id in sorted(self.vms)]
            yield host_pb2.HostUpdate(snapshot=host_pb2.HostSnapshot(host=host, vms=vms))
            beat = 0
            while True:
                try:
                    async with asyncio.timeout(interval_s):
                        yield await updates.get()
                except TimeoutError:
                    beat += 1
                    yield host_pb2.HostUpdate(load=self._load(beat))
        finally:
            self.streams.discard(updates)

    async def UpdateTrust(
        self, request: host_pb2.UpdateTrustRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> host_pb2.UpdateTrustResponse:
        return host_pb2.UpdateTrustResponse()

    async def EnsurePool(
        self, request: pool_pb2.EnsurePoolRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pool_pb2.Pool:
        return pool_pb2.Pool(
            spec=request.spec,
            shared=True,
            encryption=True,
            capacity_bytes=1 << 50,
            available_bytes=1 << 49,
        )

    async def CreateVolume(
        self, request: agent_volume_pb2.CreateVolumeRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[job_pb2.JobUpdate]:
        yield _begun(request.operation, "creating volume")
        await asyncio.sleep(self.work_s)
        luks, none = volume_pb2.ENCRYPT_FORMAT_LUKS, volume_pb2.ENCRYPT_FORMAT_NONE
        made = volume_pb2.VolumeInfo(
            volume_id=request.volume.volume_id,
            pool_id=request.volume.pool_id,
            format=request.volume.format,
            encrypt_format=luks if request.volume.key.passphrase else none,
            virtual_size_bytes=request.size_bytes,
        )
        yield job_pb2.JobUpdate(operation_id=request.operation.id, state=job_pb2.JobUpdate.SUCCEEDED, volume=made)

    async def StartVm(
        self, request: agent_vm_pb2.StartVmRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[job_pb2.JobUpdate]:
        yield _begun(request.operation, "starting VM")
        await asyncio.sleep(self.work_s)
        vm_id = request.spec.vm_id
        if self.starts.setdefault(vm_id, request.operation.id) != request.operation.id:
            raise AssertionError(f"VM {vm_id} was started by two operations")
        self.vms.add(vm_id)
        info = _running(vm_id)
        event = host_pb2.VmEvent(kind=host_pb2.VmEvent.STARTED, vm=info)
        for stream in self.streams:
            stream.put_nowait(host_pb2.HostUpdate(vm_event=event))
        yield job_pb2.JobUpdate(operation_id=request.operation.id, state=job_pb2.JobUpdate.SUCCEEDED, vm=info)

    def _load(self, beat: int) -> types_vm_pb2.HostLoad:
        share = 0.1 + beat % 7 / 100
        return types_vm_pb2.HostLoad(
            cpu_used=share * len(self.vms),
            cpus=CPUS,
            memory_used_bytes=len(self.vms) * GIB,
            memory_total_bytes=MEMORY_BYTES,
            cpu_pressure=share,
            memory_pressure=0.0,
            io_pressure=share,
            vms=[types_vm_pb2.VmLoad(vm_id=vm_id, cpu_used=share, memory_rss_bytes=GIB // 2) for vm_id in self.vms],
        )


def _begun(operation: job_pb2.OperationRef, phase: str) -> job_pb2.JobUpdate:
    progress = job_pb2.Progress(phase=phase, percent=1)
    return job_pb2.JobUpdate(operation_id=operation.id, state=job_pb2.JobUpdate.RUNNING, progress=progress)


def _running(vm_id: str) -> types_vm_pb2.VmInfo:
    return types_vm_pb2.VmInfo(
        vm_id=vm_id,
        name=vm_id,
        power_state=types_vm_pb2.POWER_STATE_RUNNING,
        cpus=1,
        memory_bytes=GIB,
        managed=True,
        machine="pc-q35-7.2",
    )


async def _serve(directory: Path) -> None:
    asked = json.loads((directory / "hosts.json").read_text())
    trust = (directory / "trust.pem").read_bytes()
    ports, servers = {}, []
    for entry in asked["hosts"]:
        host = Host(entry["id"], entry["name"], set(entry["vms"]), asked["work_s"])  # type: ignore[abstract]  # what is not asked is not there
        server = grpc.aio.server(options=_OPTIONS)
        host_pb2_grpc.add_HostServiceServicer_to_server(host, server)
        pool_pb2_grpc.add_PoolServiceServicer_to_server(host, server)
        volume_pb2_grpc.add_VolumeServiceServicer_to_server(host, server)
        vm_pb2_grpc.add_VmServiceServicer_to_server(host, server)
        pair = [(entry["key"].encode(), entry["certificate"].encode())]
        credentials = grpc.ssl_server_credentials(pair, trust, require_client_auth=True)
        ports[host.host_id] = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        servers.append(server)
    part = directory / "ports.part"
    part.write_text(json.dumps(ports))
    part.rename(directory / "ports.json")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for server in servers:
        await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
