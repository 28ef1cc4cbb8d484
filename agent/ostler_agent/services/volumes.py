"""VolumeService."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import grpc
from google.protobuf.message import Message
from ostler.agent.v1 import volume_pb2, volume_pb2_grpc
from ostler.types.v1 import job_pb2
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import bad_field

from ostler_agent.conversion.backup_files import BackupFiles
from ostler_agent.direct_download import Downloader
from ostler_agent.jobs import JobContext, Jobs
from ostler_agent.journal import Record
from ostler_agent.services import backup_files, convert
from ostler_agent.spec import VolumeInfo, VolumeRef
from ostler_agent.volumes import Volumes
from ostler_agent.volumes.disk_copies import Pair

_HEAD_BYTES = 64 << 10
_MAX_REASON = 1000


class VolumeService(volume_pb2_grpc.VolumeServiceServicer):
    """files: of backups, which are read as streams and not as jobs: nothing is left to resume."""

    def __init__(
        self, jobs: Jobs, volumes: Volumes, downloader: Downloader | None = None, files: BackupFiles | None = None
    ) -> None:
        self._jobs = jobs
        self._volumes = volumes
        self._files = files
        self._downloader = downloader or Downloader()
        jobs.on_recover("volume.create", self._recover_create)
        jobs.on_recover("volume.grow", self._recover_grow)
        jobs.on_recover("volume.delete", self._recover_delete)
        jobs.on_resume("volume.copy", self._resume_copy)
        jobs.on_resume("volume.copy-disks", self._resume_copy_disks)
        jobs.on_resume("volume.mirror", self._resume_mirror)
        jobs.on_resume("volume.pivot", self._resume_pivot)
        jobs.on_resume("volume.cancel-mirror", self._resume_cancel_mirror)

    def CreateVolume(
        self, request: volume_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        ref = convert.volume_ref(request.volume)
        provisioning = convert.provisioning(request.provisioning, "provisioning")
        template = convert.template_source(request.template) if request.HasField("template") else None
        return self._jobs.run(
            request.operation,
            "volume.create",
            request,
            lambda job: convert.volume_info(self._volumes.create(job, ref, request.size_bytes, provisioning, template)),
        )

    def GrowVolume(
        self, request: volume_pb2.GrowVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        ref = convert.volume_ref(request.volume)
        return self._jobs.run(
            request.operation,
            "volume.grow",
            request,
            lambda job: convert.volume_info(self._volumes.grow(job, ref, request.size_bytes)),
        )

    def DeleteVolume(
        self, request: volume_pb2.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        ref = convert.volume_ref(request.volume)
        return self._jobs.run(request.operation, "volume.delete", request, lambda job: self._volumes.delete(job, ref))

    def GetVolume(self, request: volume_pb2.GetVolumeRequest, context: grpc.ServicerContext) -> types_pb2.VolumeInfo:
        return convert.volume_info(self._volumes.info(convert.volume_ref(request.volume)))

    def CopyVolume(
        self, request: volume_pb2.CopyVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        source, *parents = (
            [convert.volume_ref(ref, f"layers[{number}]") for number, ref in enumerate(request.layers)]
            if request.layers
            else [convert.volume_ref(request.source, "source")]
        )
        target = convert.volume_ref(request.target, "target")
        provisioning = convert.provisioning(request.provisioning, "provisioning")
        vm_id = convert.uuid_field(request.vm_id, "vm_id") if request.vm_id else ""
        return self._jobs.run(
            request.operation,
            "volume.copy",
            request,
            lambda job: convert.volume_info(
                self._volumes.copies.copy(job, source, target, request.size_bytes, provisioning, vm_id, parents)
            ),
        )

    def CopyDisks(
        self, request: volume_pb2.CopyDisksRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        vm_id, pairs = convert.uuid_field(request.vm_id, "vm_id"), _pairs(request)
        backup_id = convert.uuid_field(request.record_id, "record_id") if request.record_id else ""
        memory = convert.volume_ref(request.memory, "memory") if request.HasField("memory") else None
        if memory is not None and backup_id:
            raise bad_field("record_id", "must be empty: a copy with memory records nothing")
        copies = self._volumes.disk_copies
        return self._jobs.run(
            request.operation,
            "volume.copy-disks",
            request,
            lambda job: (
                _copied(copies.copy(job, vm_id, pairs, backup_id))
                if memory is None
                else _copied(*copies.copy_with_memory(job, vm_id, pairs, memory))
            ),
        )

    def DigestVolume(
        self, request: volume_pb2.DigestVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        ref = convert.volume_ref(request.volume)
        return self._jobs.run(
            request.operation,
            "volume.digest",
            request,
            lambda job: convert.volume_digest(self._volumes.digest(job, ref)),
        )

    def UploadVolume(
        self, request: volume_pb2.UploadVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        ref = convert.volume_ref(request.volume)
        parts = [convert.upload_part(part, f"parts[{number}]") for number, part in enumerate(request.parts)]
        return self._jobs.run(
            request.operation,
            "volume.upload",
            request,
            lambda job: job_pb2.UploadedParts(etags=self._volumes.uploads.send(job, ref, parts, request.ca_pem)),
        )

    def MirrorVolume(
        self, request: volume_pb2.MirrorVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        mirrored = _mirrored(request)
        provisioning = convert.provisioning(request.provisioning, "provisioning")
        return self._jobs.run(
            request.operation,
            "volume.mirror",
            request,
            lambda job: convert.volume_info(self._volumes.mirrors.begin(job, *mirrored, provisioning)),
        )

    def PivotVolume(
        self, request: volume_pb2.PivotVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        mirrored = _mirrored(request)
        return self._jobs.run(
            request.operation,
            "volume.pivot",
            request,
            lambda job: convert.volume_info(self._volumes.mirrors.pivot(job, *mirrored)),
        )

    def CancelMirror(
        self, request: volume_pb2.CancelMirrorRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        mirrored = _mirrored(request)
        return self._jobs.run(
            request.operation,
            "volume.cancel-mirror",
            request,
            lambda job: self._volumes.mirrors.cancel(job, *mirrored),
        )

    def AddVolumeKey(
        self, request: volume_pb2.AddVolumeKeyRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        ref, new_key = convert.volume_ref(request.volume), convert.key(request.new_key, "new_key")
        return self._jobs.run(
            request.operation,
            "volume.add-key",
            request,
            lambda job: convert.volume_info(self._volumes.keys.add(job, ref, new_key)),
        )

    def RemoveVolumeKey(
        self, request: volume_pb2.RemoveVolumeKeyRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        ref, old_key = convert.volume_ref(request.volume), convert.key(request.old_key, "old_key")
        return self._jobs.run(
            request.operation,
            "volume.remove-key",
            request,
            lambda job: convert.volume_info(self._volumes.keys.remove(job, ref, old_key)),
        )

    def InspectTemplate(
        self, request: volume_pb2.InspectTemplateRequest, context: grpc.ServicerContext
    ) -> volume_pb2.InspectTemplateResponse:
        found = self._downloader.inspect(convert.direct_source(request.direct, "direct"), _HEAD_BYTES)
        return volume_pb2.InspectTemplateResponse(file_size_bytes=found.size_bytes, head=found.head)

    def InspectFile(
        self, request: volume_pb2.InspectFileRequest, context: grpc.ServicerContext
    ) -> types_pb2.VolumeInfo:
        pool_id = convert.uuid_field(request.pool_id, "pool_id")
        key = convert.key(request.key, "key") if request.HasField("key") else None
        format = convert.disk_format(request.format, "format")
        return convert.volume_info(self._volumes.adoption.inspect(pool_id, request.file_name, format, key))

    def AdoptVolume(
        self, request: volume_pb2.AdoptVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        ref = convert.volume_ref(request.volume)
        return self._jobs.run(
            request.operation,
            "volume.adopt",
            request,
            lambda job: convert.volume_info(self._volumes.adoption.adopt(job, ref, request.file_name)),
        )

    def ReleaseVolume(
        self, request: volume_pb2.ReleaseVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        ref = convert.volume_ref(request.volume)
        return self._jobs.run(
            request.operation,
            "volume.release",
            request,
            lambda job: self._volumes.adoption.release(job, ref, request.file_name),
        )

    def ReadBackupFiles(
        self, request: volume_pb2.ReadBackupFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[volume_pb2.ReadBackupFilesResponse]:
        assert self._files
        job = JobContext("read-backup-files")
        if not context.add_callback(job.cancel):
            return
        found = self._files.read(job, backup_files.disks(request), backup_files.wanted(request))
        with closing(found):
            yield from map(backup_files.response, found)

    def ReadVolume(
        self, request: volume_pb2.ReadVolumeRequest, context: grpc.ServicerContext
    ) -> Iterator[volume_pb2.ReadVolumeResponse]:
        for size_bytes, data in self._volumes.read(convert.volume_ref(request.volume), request.offset):
            yield volume_pb2.ReadVolumeResponse(data=data, file_size_bytes=size_bytes)

    def _recover_create(self, record: Record) -> Message:
        request = record.request_as(volume_pb2.CreateVolumeRequest)
        return convert.volume_info(
            self._volumes.resolve_interrupted_create(convert.volume_ref(request.volume), record.facts)
        )

    def _recover_grow(self, record: Record) -> Message:
        request = record.request_as(volume_pb2.GrowVolumeRequest)
        return convert.volume_info(
            self._volumes.resolve_interrupted_grow(convert.volume_ref(request.volume), request.size_bytes)
        )

    def _resume_copy(self, record: Record, job: JobContext) -> Message:
        request = record.request_as(volume_pb2.CopyVolumeRequest)
        target = convert.volume_ref(request.target)
        return convert.volume_info(self._volumes.copies.resolve_interrupted_copy(target, request.vm_id, record.facts))

    def _resume_copy_disks(self, record: Record, job: JobContext) -> Message:
        request = record.request_as(volume_pb2.CopyDisksRequest)
        copies, vm_id, pairs = self._volumes.disk_copies, request.vm_id, _pairs(request)
        if request.HasField("memory"):
            memory = convert.volume_ref(request.memory, "memory")
            return _copied(*copies.resolve_interrupted_with_memory(vm_id, pairs, memory, record.facts))
        return _copied(copies.resolve_interrupted(vm_id, pairs, record.facts))

    def _resume_mirror(self, record: Record, job: JobContext) -> Message:
        mirrored = _mirrored(record.request_as(volume_pb2.MirrorVolumeRequest))
        return convert.volume_info(self._volumes.mirrors.resolve_interrupted_begin(*mirrored, record.facts))

    def _resume_pivot(self, record: Record, job: JobContext) -> Message:
        mirrored = _mirrored(record.request_as(volume_pb2.PivotVolumeRequest))
        return convert.volume_info(self._volumes.mirrors.pivot(job, *mirrored))

    def _resume_cancel_mirror(self, record: Record, job: JobContext) -> None:
        mirrored = _mirrored(record.request_as(volume_pb2.CancelMirrorRequest))
        self._volumes.mirrors.cancel(job, *mirrored)

    def _recover_delete(self, record: Record) -> None:
        request = record.request_as(volume_pb2.DeleteVolumeRequest)
        self._volumes.resolve_interrupted_delete(convert.volume_ref(request.volume))


def _mirrored(
    request: volume_pb2.MirrorVolumeRequest | volume_pb2.PivotVolumeRequest | volume_pb2.CancelMirrorRequest,
) -> tuple[str, VolumeRef, VolumeRef]:
    """The VM, its disk and the mirror."""
    return (
        convert.uuid_field(request.vm_id, "vm_id"),
        convert.volume_ref(request.source, "source"),
        convert.volume_ref(request.target, "target"),
    )


def _pairs(request: volume_pb2.CopyDisksRequest) -> list[Pair]:
    return [
        Pair(
            convert.volume_ref(disk.source, f"disks[{number}].source"),
            convert.volume_ref(disk.target, f"disks[{number}].target"),
            convert.uuid_field(disk.since, f"disks[{number}].since") if disk.since else "",
        )
        for number, disk in enumerate(request.disks)
    ]


def _copied(made: Sequence[VolumeInfo], memory: VolumeInfo | None = None) -> job_pb2.CopiedDisks:
    reasons = [info.full_reason for info in made if info.full_reason is not None]
    parts = [job_pb2.CopiedPart(increment=not reason, reason=reason[:_MAX_REASON]) for reason in reasons]
    image = convert.volume_info(memory) if memory is not None else None
    return job_pb2.CopiedDisks(volumes=map(convert.volume_info, made), parts=parts, memory=image)
