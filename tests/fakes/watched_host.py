"""What a host's agent tells by itself: its VMs when somebody begins to watch, and then what happens to them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import grpc
from ostler.agent.v1 import host_pb2, host_pb2_grpc, pool_pb2, pool_pb2_grpc
from ostler.types.v1 import host_pb2 as types_host_pb2
from ostler.types.v1 import vm_pb2
from ostler_agent.looks import Look
from ostler_agent.services import convert
from ostler_common.errors import UnavailableError
from ostler_common.versions import own_version

# How often it looks what has changed; a real one is called by its hypervisor.
LOOK_S = 0.1
_KINDS = {vm_pb2.POWER_STATE_RUNNING: host_pb2.VmEvent.STARTED, vm_pb2.POWER_STATE_STOPPED: host_pb2.VmEvent.STOPPED}


class WatchedHost(host_pb2_grpc.HostServiceServicer, pool_pb2_grpc.PoolServiceServicer):
    """vms: the host's VMs as they are; look: a moment of its agent."""

    def __init__(
        self,
        host_id: str,
        name: str,
        capabilities: types_host_pb2.Capabilities,
        vms: Callable[[], list[vm_pb2.VmInfo]],
        look: Callable[[], Look],
    ) -> None:
        self._host = host_pb2.Host(
            host_id=host_id, hostname=name, agent_version=own_version(), capabilities=capabilities
        )
        self._vms = vms
        self._look = look

    def serve_on(self, server: grpc.Server) -> None:
        """Adds its services to a server."""
        host_pb2_grpc.add_HostServiceServicer_to_server(self, server)
        pool_pb2_grpc.add_PoolServiceServicer_to_server(self, server)

    def WatchHost(
        self, request: host_pb2.WatchHostRequest, context: grpc.ServicerContext
    ) -> Iterator[host_pb2.HostUpdate]:
        try:
            known = {vm.vm_id: vm for vm in self._vms()}
        except UnavailableError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        look = self._look()
        vms = [_seen(vm, look) for vm in known.values()]
        yield host_pb2.HostUpdate(snapshot=host_pb2.HostSnapshot(host=self._host, vms=vms))
        told = time.monotonic()
        while context.is_active():
            time.sleep(LOOK_S)
            present = known
            with contextlib.suppress(UnavailableError):  # then nothing is heard of VMs
                present = {vm.vm_id: vm for vm in self._vms()}
            look = self._look()
            for vm_id in sorted(known.keys() | present.keys()):
                if present.get(vm_id) != known.get(vm_id):
                    yield host_pb2.HostUpdate(vm_event=_event(known.get(vm_id), present.get(vm_id), look))
            known = present
            if time.monotonic() - told >= request.load_interval_ms / 1000:
                told = time.monotonic()
                yield host_pb2.HostUpdate(load=self._load())

    def UpdateTrust(
        self, request: host_pb2.UpdateTrustRequest, context: grpc.ServicerContext
    ) -> host_pb2.UpdateTrustResponse:
        return host_pb2.UpdateTrustResponse()

    def EnsurePool(self, request: pool_pb2.EnsurePoolRequest, context: grpc.ServicerContext) -> pool_pb2.Pool:
        shared = request.spec.type != "local"
        return pool_pb2.Pool(
            spec=request.spec, shared=shared, encryption=True, capacity_bytes=1 << 40, available_bytes=1 << 40
        )

    def _load(self) -> vm_pb2.HostLoad:
        able = self._host.capabilities
        return vm_pb2.HostLoad(
            cpu_used=1.0, cpus=able.cpus, memory_used_bytes=1 << 30, memory_total_bytes=able.memory_bytes
        )


def _seen(vm: vm_pb2.VmInfo, look: Look) -> vm_pb2.VmInfo:
    found = vm_pb2.VmInfo(look=convert.look(look))
    found.MergeFrom(vm)
    return found


def _event(before: vm_pb2.VmInfo | None, after: vm_pb2.VmInfo | None, look: Look) -> host_pb2.VmEvent:
    """What happened to a VM."""
    if after is None:
        return host_pb2.VmEvent(kind=host_pb2.VmEvent.UNDEFINED, vm=before)
    return host_pb2.VmEvent(kind=_KINDS.get(after.power_state, host_pb2.VmEvent.STOPPED), vm=_seen(after, look))
