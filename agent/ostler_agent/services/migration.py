"""MigrationService."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
from google.protobuf.message import Message
from ostler.agent.v1 import vm_pb2, vm_pb2_grpc
from ostler.types.v1 import job_pb2
from ostler_common.errors import OstlerError, bad_field

from ostler_agent.hypervisors.base import Addresses, Hypervisor, MigrationLimits, MigrationReport, live_migration
from ostler_agent.jobs import JobContext, Jobs, interrupted
from ostler_agent.journal import Record
from ostler_agent.looks import LOOKS
from ostler_agent.migration import source
from ostler_agent.migration.admissions import Source
from ostler_agent.migration.destination import Endpoint, IncomingMigrations, MovedVolume
from ostler_agent.seeds import SEEDS, Seeds
from ostler_agent.services import convert
from ostler_agent.spec import VmSpec

DEFAULT_MAX_DOWNTIME_MS = 300
DEFAULT_TIMEOUT_S = 3600
# The migration begins a little after its preparation; a restart of the source's agent allows it its timeout once more.
ADMITTED_TIMEOUTS, ADMITTED_MARGIN_S = 2, 300

Updates = Iterator[job_pb2.JobUpdate]


class MigrationService(vm_pb2_grpc.MigrationServiceServicer):
    """may_start: raises when no VM may come here now (`Guards.check_may_start`)."""

    def __init__(
        self,
        jobs: Jobs,
        driver: Hypervisor,
        incoming: IncomingMigrations,
        seeds: Seeds = SEEDS,
        may_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._jobs = jobs
        self._may_start = may_start
        self._seeds = seeds
        self._driver = driver
        self._incoming = incoming
        jobs.on_recover("migration.prepare", self._recover_prepare)
        jobs.on_resume("migration.move", self._resume_move)

    def PrepareMigration(self, request: vm_pb2.PrepareMigrationRequest, context: grpc.ServicerContext) -> Updates:
        spec, moved, origin = convert.vm_spec(request.spec), _moved_volumes(request), _origin(request)
        return self._jobs.run(
            request.operation,
            "migration.prepare",
            request,
            lambda job: self._prepared(spec, moved, origin, job),
        )

    def MigrateVm(self, request: vm_pb2.MigrateVmRequest, context: grpc.ServicerContext) -> Updates:
        spec, endpoint, limits = (
            convert.vm_spec(request.destination_spec),
            _endpoint(request.endpoint),
            _limits(request),
        )
        if convert.uuid_field(request.vm_id, "vm_id") != spec.vm_id:
            raise bad_field("destination_spec.vm_id", "must be the VM that migrates")
        mover = live_migration(self._driver)
        mover.check_addresses(endpoint.addresses)
        return self._jobs.run(
            request.operation,
            "migration.move",
            request,
            lambda job: self._migrated(
                spec.vm_id, source.migrate(mover, endpoint, spec, request.moved_volume_ids, limits, job)
            ),
        )

    def FinishMigration(self, request: vm_pb2.FinishMigrationRequest, context: grpc.ServicerContext) -> Updates:
        vm_id = convert.uuid_field(request.vm_id, "vm_id")
        moved = [convert.volume_ref(ref, f"moved_volumes[{n}]") for n, ref in enumerate(request.moved_volumes)]
        return self._jobs.run(
            request.operation,
            "migration.finish",
            request,
            lambda job: convert.vm_info(self._incoming.finish(vm_id, request.arrived, request.key_ids, moved, job)),
        )

    def _prepared(self, spec: VmSpec, moved: list[MovedVolume], origin: Source, job: JobContext) -> Message:
        self._may_start()
        return _endpoint_message(self._incoming.prepare(spec, moved, origin, job))

    def _recover_prepare(self, record: Record) -> Message:
        """Deletes the targets; the agent's start has removed the keys."""
        request = record.request_as(vm_pb2.PrepareMigrationRequest)
        self._incoming.undo_interrupted_prepare(convert.vm_spec(request.spec), _moved_volumes(request))
        raise interrupted()

    def _resume_move(self, record: Record, job: JobContext) -> Message:
        request = record.request_as(vm_pb2.MigrateVmRequest)
        report = source.resolve_interrupted_migration(
            live_migration(self._driver), request.vm_id, _limits(request).timeout_s, job
        )
        return self._migrated(request.vm_id, report)

    def _migrated(self, vm_id: str, report: MigrationReport) -> Message:
        """Removes what a VM that has left still has on this host."""
        self._seeds.delete(vm_id)
        message, look = _report(report), LOOKS.next()
        with contextlib.suppress(OstlerError):  # the VM has moved, whether or not the hypervisor can tell now
            if not self._driver.running(vm_id):
                message.look.CopyFrom(convert.look(look))
        return message


def _moved_volumes(request: vm_pb2.PrepareMigrationRequest) -> list[MovedVolume]:
    return [
        MovedVolume(
            convert.uuid_field(volume.volume_id, f"moved_volumes[{n}].volume_id"),
            volume.size_bytes,
            convert.provisioning(volume.provisioning, f"moved_volumes[{n}].provisioning"),
        )
        for n, volume in enumerate(request.moved_volumes)
    ]


def _origin(request: vm_pb2.PrepareMigrationRequest) -> Source:
    if request.timeout_s < 0:
        raise bad_field("timeout_s", "must not be negative")
    admitted_s = ADMITTED_TIMEOUTS * (request.timeout_s or DEFAULT_TIMEOUT_S) + ADMITTED_MARGIN_S
    return Source(convert.uuid_field(request.source_host_id, "source_host_id"), admitted_s)


def _limits(request: vm_pb2.MigrateVmRequest) -> MigrationLimits:
    for field in ("max_downtime_ms", "timeout_s", "bandwidth_bytes_per_s"):
        if getattr(request, field) < 0:
            raise bad_field(field, "must not be negative")
    return MigrationLimits(
        max_downtime_ms=request.max_downtime_ms or DEFAULT_MAX_DOWNTIME_MS,
        timeout_s=request.timeout_s or DEFAULT_TIMEOUT_S,
        bandwidth_bytes_per_s=request.bandwidth_bytes_per_s,
        auto_converge=request.auto_converge,
    )


def _endpoint(message: job_pb2.MigrationEndpoint) -> Endpoint:
    paths = {volume_id: Path(path) for volume_id, path in message.volume_paths.items()}
    return Endpoint(Addresses(message.hypervisor_uri, message.migrate_uri, message.disks_uri), paths, message.tls_name)


def _endpoint_message(endpoint: Endpoint) -> job_pb2.MigrationEndpoint:
    return job_pb2.MigrationEndpoint(
        hypervisor_uri=endpoint.addresses.hypervisor_uri,
        migrate_uri=endpoint.addresses.migrate_uri,
        disks_uri=endpoint.addresses.disks_uri,
        volume_paths={volume_id: str(path) for volume_id, path in endpoint.volume_paths.items()},
        tls_name=endpoint.tls_name,
    )


def _report(report: MigrationReport) -> job_pb2.MigrationReport:
    return job_pb2.MigrationReport(
        elapsed_ms=report.elapsed_ms,
        downtime_ms=report.downtime_ms,
        transferred_bytes=report.transferred_bytes,
        dirty_rate_bytes_per_s=report.dirty_rate_bytes_per_s,
    )
