"""The adoption service of a host that works in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
from ostler.agent.v1 import adoption_pb2 as pb
from ostler.agent.v1 import adoption_pb2_grpc
from ostler.types.v1 import job_pb2
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler_agent.jobs import JobContext
from ostler_common.errors import NotFoundError

if TYPE_CHECKING:
    from tests.fakes.working_agent import FakeHost


class FakeAdoption(adoption_pb2_grpc.AdoptionServiceServicer):
    """One host's. `host.foreign`: the VMs of other tools, by name; `host.marked`: ids of those with Ostler's mark."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def InspectVm(self, request: pb.InspectVmRequest, context: grpc.ServicerContext) -> pb.InspectVmResponse:
        with self._host.errors(context):
            for vm in self._host.foreign.values():
                if request.vm in (vm.name, vm.vm_id):
                    return vm
            raise NotFoundError("there is no such VM", "VM_NOT_FOUND")

    def AdoptVm(self, request: pb.AdoptVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_pb2.VmInfo:
            for disk in request.disks:
                files = self._host.fleet.pools[disk.volume.pool_id]
                files[disk.volume.volume_id] = files[disk.file_name]
            self._host.marked.add(request.vm_id)
            return self._info(request.vm_id)

        return self._host.run_job("AdoptVm", "vm.adopt", request, context, work)

    def ReleaseVm(self, request: pb.ReleaseVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_pb2.VmInfo:
            self._host.marked.discard(request.vm_id)
            for disk in request.disks:
                if disk.volume.volume_id != disk.file_name:
                    self._host.fleet.pools[disk.volume.pool_id].pop(disk.volume.volume_id, None)
            return self._info(request.vm_id)

        return self._host.run_job("ReleaseVm", "vm.release", request, context, work)

    def _info(self, vm_id: str) -> types_pb2.VmInfo:
        states = {vm.vm_id: vm.power_state for vm in self._host.foreign.values()}
        managed = vm_id in self._host.marked
        return types_pb2.VmInfo(
            vm_id=vm_id, power_state=states.get(vm_id, types_pb2.POWER_STATE_RUNNING), managed=managed
        )
