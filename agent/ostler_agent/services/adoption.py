"""AdoptionService."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc
from ostler.agent.v1 import adoption_pb2, adoption_pb2_grpc
from ostler.types.v1 import job_pb2
from ostler.types.v1 import vm_pb2 as types_pb2
from ostler_common.errors import bad_field

from ostler_agent.adoption import AdoptedDisk, Found, VmAdoption
from ostler_agent.hypervisors.foreign import MAX_DISKS
from ostler_agent.jobs import Jobs
from ostler_agent.services import convert

_MAX_NAME = 255


class AdoptionService(adoption_pb2_grpc.AdoptionServiceServicer):
    def __init__(self, jobs: Jobs, adoption: VmAdoption) -> None:
        self._jobs = jobs
        self._adoption = adoption

    def InspectVm(
        self, request: adoption_pb2.InspectVmRequest, context: grpc.ServicerContext
    ) -> adoption_pb2.InspectVmResponse:
        if not 0 < len(request.vm) <= _MAX_NAME:
            raise bad_field("vm", f"must be 1 to {_MAX_NAME} characters")
        return _response(self._adoption.inspect(request.vm))

    def AdoptVm(
        self, request: adoption_pb2.AdoptVmRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        vm_id, disks = convert.uuid_field(request.vm_id, "vm_id"), _disks(request.disks)
        if not 0 < len(request.title) <= _MAX_NAME:
            raise bad_field("title", f"must be 1 to {_MAX_NAME} characters")
        return self._jobs.run(
            request.operation,
            "vm.adopt",
            request,
            lambda job: convert.vm_info(self._adoption.adopt(job, vm_id, request.title, disks)),
        )

    def ReleaseVm(
        self, request: adoption_pb2.ReleaseVmRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        vm_id, disks = convert.uuid_field(request.vm_id, "vm_id"), _disks(request.disks)
        return self._jobs.run(
            request.operation,
            "vm.release",
            request,
            lambda job: convert.vm_info(self._adoption.release(job, vm_id, disks)),
        )


def _disks(messages: Sequence[adoption_pb2.AdoptedDisk]) -> list[AdoptedDisk]:
    if len(messages) > MAX_DISKS:
        raise bad_field("disks", f"must be at most {MAX_DISKS}")
    return [
        AdoptedDisk(convert.volume_ref(disk.volume, f"disks[{number}].volume"), disk.file_name)
        for number, disk in enumerate(messages)
    ]


def _response(found: Found) -> adoption_pb2.InspectVmResponse:
    response = adoption_pb2.InspectVmResponse
    vm = found.vm
    return response(
        vm_id=vm.vm_id,
        name=vm.name,
        power_state=convert.POWER_STATES[vm.power_state],
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        firmware=types_pb2.FIRMWARE_UEFI if vm.uefi else types_pb2.FIRMWARE_BIOS,
        secure_boot=vm.secure_boot,
        managed=vm.managed,
        disks=[
            response.Disk(
                slot=disk.slot,
                pool_id=disk.pool_id,
                file_name=disk.file_name,
                format=convert.to_format(disk.format),
                size_bytes=disk.size_bytes,
            )
            for disk in found.disks
        ],
        nics=[response.Nic(mac=nic.mac, bridge=nic.bridge, model=nic.model) for nic in vm.nics],
        problems=[
            response.Problem(code=problem.code, text=problem.text, refuses=problem.refuses)
            for problem in found.problems
        ],
    )
