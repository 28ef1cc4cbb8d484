"""The calls about migration."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc
from ostler.agent.v1 import (
    vm_pb2,
)
from ostler.types.v1 import job_pb2
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler_agent.jobs import JobContext
from ostler_common.errors import AbortedError, FailedPreconditionError

from tests.fakes.agent_machines import AgentMachines
from tests.fakes.files import File


class MigrationCalls(AgentMachines):
    """As MigrationService has them."""

    def PrepareMigration(
        self, request: vm_pb2.PrepareMigrationRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> job_pb2.MigrationEndpoint:
            moved = {volume.volume_id: volume.size_bytes for volume in request.moved_volumes}
            for disk in request.spec.disks:
                ref = disk.volume
                if ref.volume_id in moved:
                    self._files(ref)[ref.volume_id] = File(
                        moved[ref.volume_id], ref.format, ref.key.passphrase, ref.key.key_id
                    )
                    self.life.point()
            self._check_disks(request.spec)
            self.life.point()
            self._place_seed(request.spec)
            self.admitted[request.spec.vm_id] = request.source_host_id
            self.life.point()
            return job_pb2.MigrationEndpoint(
                hypervisor_uri=f"qemu+tls://{self.host_id}/system",
                migrate_uri=f"tcp://{self.host_id}",
                volume_paths={disk.volume.volume_id: f"/{disk.volume.pool_id}" for disk in request.spec.disks},
            )

        return self._job("PrepareMigration", "migration.prepare", request, context, work)

    def MigrateVm(self, request: vm_pb2.MigrateVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> job_pb2.MigrationReport:
            if not self._runs(request.vm_id):
                raise FailedPreconditionError("the VM does not run here", "VM_NOT_RUNNING")
            destination = self.fleet.hosts[request.endpoint.hypervisor_uri.split("/")[2]]
            if not destination.powered:
                raise AbortedError("the destination does not answer", "MIGRATION_FAILED")
            if destination.admitted.get(request.vm_id) != self.host_id:
                raise AbortedError("the destination does not admit this host", "MIGRATION_FAILED")
            job.report("migrating memory", 1, 2)
            with self.fleet.lock, contextlib.ExitStack() as stack:
                stack.callback(self.life.point)  # libvirt completes it, also without an agent
                machine = self.vms.pop(request.vm_id)
                machine.running, machine.migrating = True, False
                machine.spec.CopyFrom(request.destination_spec)
                destination.vms[request.vm_id] = machine
                if request.vm_id in self.tpms:
                    destination.tpms[request.vm_id] = self.tpms.pop(request.vm_id)
                self.seeds.pop(request.vm_id, None)
                self._drop_secrets(machine.spec)
            return job_pb2.MigrationReport(elapsed_ms=1, look=self._seen(request.vm_id).look)

        return self._job("MigrateVm", "migration.move", request, context, work)

    def FinishMigration(
        self, request: vm_pb2.FinishMigrationRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> types_vm_pb2.VmInfo:
            if self._runs(request.vm_id) != request.arrived:
                raise FailedPreconditionError("it is not as you say", "VM_NOT_HERE")
            self.admitted.pop(request.vm_id, None)
            self.life.point()
            if not request.arrived:
                self.secrets -= set(request.key_ids)
                self.life.point()
                for ref in request.moved_volumes:
                    self._files(ref).pop(ref.volume_id, None)
                    self.life.point()
            return self._vm_info(request.vm_id)

        return self._job("FinishMigration", "migration.finish", request, context, work)
