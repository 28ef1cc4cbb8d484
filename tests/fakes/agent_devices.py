"""The calls about devices of VMs."""

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

from tests.fakes.agent_machines import AgentMachines


class DeviceCalls(AgentMachines):
    """Of VmService: disks, NICs, CD-ROM drives, and the size of a VM."""

    def AttachVolume(
        self, request: vm_pb2.AttachVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            machine = self._machine(request.vm_id)
            file = self._file(request.disk.volume)
            self._check_key(file, request.disk.volume)
            if request.disk.volume.volume_id not in [disk.volume.volume_id for disk in machine.spec.disks]:
                disk = machine.spec.disks.add()
                disk.CopyFrom(request.disk)
                disk.volume.key.ClearField("passphrase")
            return self._vm_info(request.vm_id)

        return self._job("AttachVolume", "vm.attach", request, context, work)

    def AttachNic(self, request: vm_pb2.AttachNicRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            machine = self._machine(request.vm_id)
            if request.nic.mac not in [nic.mac for nic in machine.spec.nics]:
                machine.spec.nics.add().CopyFrom(request.nic)
            return self._vm_info(request.vm_id)

        return self._job("AttachNic", "vm.attach-nic", request, context, work)

    def DetachNic(self, request: vm_pb2.DetachNicRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            machine = self._machine(request.vm_id)
            kept = [nic for nic in machine.spec.nics if nic.mac != request.mac]
            del machine.spec.nics[:]
            machine.spec.nics.extend(kept)
            return self._vm_info(request.vm_id)

        return self._job("DetachNic", "vm.detach-nic", request, context, work)

    def SetNicLink(
        self, request: vm_pb2.SetNicLinkRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            for nic in self._machine(request.vm_id).spec.nics:
                if nic.mac == request.mac:
                    nic.link_down = not request.up
            return self._vm_info(request.vm_id)

        return self._job("SetNicLink", "vm.set-nic-link", request, context, work)

    def ChangeCdrom(
        self, request: vm_pb2.ChangeCdromRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            spec = self._machine(request.vm_id).spec
            kept = [cdrom for cdrom in spec.cdroms if cdrom.drive != request.drive]
            del spec.cdroms[:]
            spec.cdroms.extend([*kept, request.cdrom] if request.HasField("cdrom") else kept)
            return self._vm_info(request.vm_id)

        return self._job("ChangeCdrom", "vm.change-cdrom", request, context, work)

    def LimitDisk(self, request: vm_pb2.LimitDiskRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            for disk in self._machine(request.vm_id).spec.disks:
                if disk.volume.volume_id == request.volume_id:
                    disk.limits.CopyFrom(request.limits)
            return self._vm_info(request.vm_id)

        return self._job("LimitDisk", "vm.limit-disk", request, context, work)

    def ResizeVm(self, request: vm_pb2.ResizeVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            spec = self._machine(request.vm_id).spec
            if request.cpus > max(spec.cpus, spec.max_cpus):
                raise FailedPreconditionError("more than its maximum", "RESIZE_NEEDS_STOP")
            spec.cpus, spec.memory_bytes = request.cpus, request.memory_bytes
            return self._vm_info(request.vm_id)

        return self._job("ResizeVm", "vm.resize", request, context, work)

    def DetachVolume(
        self, request: vm_pb2.DetachVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            machine = self._machine(request.vm_id)
            kept = [disk for disk in machine.spec.disks if disk.volume.volume_id != request.volume_id]
            del machine.spec.disks[:]
            machine.spec.disks.extend(kept)
            self.secrets.discard(request.key_id)
            return self._vm_info(request.vm_id)

        return self._job("DetachVolume", "vm.detach", request, context, work)
