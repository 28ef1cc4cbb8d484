"""The calls about VMs as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from ostler.agent.v1 import (
    vm_pb2,
)
from ostler.types.v1 import job_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler_agent.jobs import JobContext
from ostler_common.errors import FailedPreconditionError

from tests.fakes.agent_base import no_daemon
from tests.fakes.agent_machines import AgentMachines
from tests.fakes.machines import Machine, without_keys


class VmCalls(AgentMachines):
    """Of VmService: define, start, stop, delete."""

    def StartVm(self, request: vm_pb2.StartVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            self._check_disks(request.spec)
            self._place_seed(request.spec)
            with self.fleet.lock:
                self._check_image_lock(request.spec.vm_id)
                memory = self._memory_of(request) if request.HasField("memory") else ""
                if not self._runs(request.spec.vm_id):
                    self.vms[request.spec.vm_id] = Machine(without_keys(request.spec))
                    self.life.point()
                self.vms[request.spec.vm_id] = Machine(without_keys(request.spec), running=True, memory=memory)
                self.life.point()
            return self._vm_info(request.spec.vm_id)

        return self._job("StartVm", "vm.start", request, context, work)

    def DefineVm(self, request: vm_pb2.DefineVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            self.vms[request.spec.vm_id] = Machine(without_keys(request.spec))
            return self._vm_info(request.spec.vm_id)

        return self._job("DefineVm", "vm.define", request, context, work)

    def ListVms(self, request: vm_pb2.ListVmsRequest, context: grpc.ServicerContext) -> vm_pb2.ListVmsResponse:
        with self.errors(context):
            return vm_pb2.ListVmsResponse(vms=self.vm_infos())

    def StopVm(self, request: vm_pb2.StopVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            machine = self.vms.get(request.vm_id)
            if machine:
                machine.running = False
                self.life.point()
                self._drop_secrets(machine.spec)
                self.life.point()
            return self._seen(request.vm_id)

        return self._job("StopVm", "vm.stop", request, context, work)

    def RebootVm(self, request: vm_pb2.RebootVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        return self._job("RebootVm", "vm.reboot", request, context, lambda job: self._vm_info(request.vm_id))

    def DeleteVm(self, request: vm_pb2.DeleteVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            self.seeds.pop(request.vm_id, None)
            if self._runs(request.vm_id):
                raise FailedPreconditionError("the VM runs", "VM_RUNNING")
            self.life.point()
            self.vms.pop(request.vm_id, None)
            self.tpms.pop(request.vm_id, None)
            self.life.point()
            return self._vm_info(request.vm_id)

        return self._job("DeleteVm", "vm.delete", request, context, work)

    def GetVm(self, request: vm_pb2.GetVmRequest, context: grpc.ServicerContext) -> types_vm_pb2.VmInfo:
        with self.errors(context):
            if self.daemon_away:
                raise no_daemon()
            return self._seen(request.vm_id)
