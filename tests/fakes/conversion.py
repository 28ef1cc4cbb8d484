"""The conversion service of a host that works in memory: staging directories, uploads, conversions."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from ostler.agent.v1 import conversion_pb2 as pb
from ostler.agent.v1 import conversion_pb2_grpc
from ostler.types.v1 import job_pb2
from ostler_agent.jobs import JobContext
from ostler_common.disk_capacity import capacity_bytes
from ostler_common.errors import FailedPreconditionError, NotFoundError, ResourceExhaustedError

if TYPE_CHECKING:
    from tests.fakes.working_agent import FakeHost


@dataclass
class Staged:
    """A file in a staging directory."""

    data: bytearray = field(default_factory=bytearray)
    complete: bool = False


_PIECE_BYTES = 64 << 20

Directory = dict[str, Staged]


class FakeConversion(conversion_pb2_grpc.ConversionServiceServicer):
    """One host's. The directories lie in the fleet's pools, so that every host that reaches a pool sees them."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def CreateStaging(self, request: pb.CreateStagingRequest, context: grpc.ServicerContext) -> pb.Staging:
        with self._host.errors(context):
            self._host.calls.append("CreateStaging")
            self._host.fail_now("CreateStaging")
            self._host.fleet.staging.setdefault(_key(request.staging), {})
            return self._staging(request.staging)

    def GetStaging(self, request: pb.GetStagingRequest, context: grpc.ServicerContext) -> pb.Staging:
        with self._host.errors(context):
            return self._staging(request.staging)

    def UploadFile(
        self, request_iterator: Iterator[pb.UploadFileRequest], context: grpc.ServicerContext
    ) -> pb.StagedFile:
        with self._host.errors(context):
            self._host.calls.append("UploadFile")
            begin = next(request_iterator).begin
            file = self._directory(begin.staging).setdefault(begin.name, Staged())
            del file.data[begin.offset :]
            file.complete = False
            self._host.fail_now("UploadFile")
            for request in request_iterator:
                if request.WhichOneof("piece") == "data":
                    assert len(request.data) <= 1 << 20
                    file.data += request.data
                    continue
                found = (len(file.data), hashlib.sha256(file.data).hexdigest())
                if found != (request.end.size_bytes, request.end.sha256):
                    raise FailedPreconditionError("the file is corrupt", "FILE_CORRUPT")
                file.complete = True
            return pb.StagedFile(name=begin.name, size_bytes=len(file.data), complete=file.complete)

    def DeleteStaging(
        self, request: pb.DeleteStagingRequest, context: grpc.ServicerContext
    ) -> pb.DeleteStagingResponse:
        with self._host.errors(context):
            self._host.calls.append("DeleteStaging")
            self._host.fail_now("DeleteStaging")
            self._host.fleet.staging.pop(_key(request.staging), None)
            return pb.DeleteStagingResponse()

    def ExportVm(self, request: pb.ExportVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> None:
            self._host.fleet.exported.append(request)
            directory = self._directory(request.staging)
            for name, data in self._host.fleet.ovftool.items():
                directory[name] = Staged(bytearray(data), complete=True)

        return self._host.run_job("ExportVm", "conversion.export", request, context, work)

    def DownloadArchive(
        self, request: pb.DownloadArchiveRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> None:
            directory = self._directory(request.staging)
            for file in request.files:
                data = self._host.fleet.archives[request.direct.url][file.name]
                directory[file.staged_name] = Staged(bytearray(data), complete=True)

        return self._host.run_job("DownloadArchive", "conversion.download", request, context, work)

    def InspectStaging(
        self, request: pb.InspectStagingRequest, context: grpc.ServicerContext
    ) -> pb.InspectStagingResponse:
        with self._host.errors(context):
            if request.images:
                return pb.InspectStagingResponse(images=[self._image(request.staging, name) for name in request.images])
            xml = bytes(self._directory(request.staging)["vm.ovf"].data)
            return pb.InspectStagingResponse(ovf=pb.OvfDescriptor(name="vm.ovf", xml=xml))

    def ConvertVm(self, request: pb.ConvertVmRequest, context: grpc.ServicerContext) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> job_pb2.ConversionReport:
            directory = self._directory(request.staging)
            manifest = directory["vm.mf"].data.decode() if "vm.mf" in directory else ""
            report = job_pb2.ConversionReport(elapsed_ms=1)
            for disk in request.disks:
                digest = _digest(directory[disk.name].data, job)
                assert not manifest or f"SHA256({disk.name})= {digest}\n" in manifest
                if disk.sha256 not in ("", digest):
                    raise FailedPreconditionError("the file is corrupt", "FILE_CORRUPT")
                info = self._host.put_file(disk.target, disk.size_bytes, digest)
                report.disks.add(key=disk.key, volume=info)
            return report

        return self._host.run_job("ConvertVm", "conversion.convert", request, context, work)

    def WriteDisk(
        self, request_iterator: Iterator[pb.WriteDiskRequest], context: grpc.ServicerContext
    ) -> pb.WriteDiskResponse:
        with self._host.errors(context):
            self._host.calls.append("WriteDisk")
            ref = next(request_iterator).begin.volume
            size_bytes, passphrase = self._host.size_and_passphrase(ref)
            assert passphrase == ref.key.passphrase
            self._host.fail_now("WriteDisk")
            written = self._host.fleet.written.setdefault(ref.volume_id, bytearray(size_bytes))
            digest = hashlib.sha256()
            for request in request_iterator:
                if request.HasField("end"):
                    assert request.end.sha256 == digest.hexdigest()
                    return pb.WriteDiskResponse()
                data = request.data.data or bytes(request.zero.length)
                offset = request.data.offset or request.zero.offset
                assert offset + len(data) <= size_bytes
                written[offset : offset + len(data)] = data
                digest.update(request.data.data)
            raise NotFoundError("the stream broke", "END_MISSING")

    def ConvertVolumes(
        self, request: pb.ConvertVolumesRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.JobUpdate]:
        def work(job: JobContext) -> job_pb2.ConversionReport:
            report = job_pb2.ConversionReport(elapsed_ms=1)
            for disk in request.disks:
                content = bytes(self._host.fleet.written[disk.volume.volume_id])
                size_bytes, _ = self._host.size_and_passphrase(disk.volume)
                info = self._host.put_file(disk.volume, size_bytes, hashlib.sha256(content).hexdigest())
                report.disks.add(key=disk.key, volume=info)
            return report

        return self._host.run_job("ConvertVolumes", "conversion.in-place", request, context, work)

    def _image(self, ref: pb.StagingRef, name: str) -> pb.StagedImage:
        data = bytes(self._directory(ref)[name].data)
        formats = {".vmdk": pb.SOURCE_FORMAT_VMDK, ".qcow2": pb.SOURCE_FORMAT_QCOW2, ".raw": pb.SOURCE_FORMAT_RAW}
        return pb.StagedImage(
            name=name,
            format=formats[name[name.rindex(".") :]],
            virtual_size_bytes=capacity_bytes(io.BytesIO(data)),
            file_size_bytes=len(data),
        )

    def _directory(self, ref: pb.StagingRef) -> Directory:
        directory = self._host.fleet.staging.get(_key(ref))
        if directory is None or ref.pool_id not in self._host.pools:
            raise NotFoundError("there is no such staging directory", "STAGING_NOT_FOUND")
        return directory

    def _staging(self, ref: pb.StagingRef) -> pb.Staging:
        files = [
            pb.StagedFile(name=name, size_bytes=len(file.data), complete=file.complete)
            for name, file in self._directory(ref).items()
        ]
        return pb.Staging(ref=ref, available_bytes=1 << 40, files=files)


def _digest(data: bytearray, job: JobContext) -> str:
    """In pieces with reports: a job that is silent for long is taken for a dead one."""
    hasher = hashlib.sha256()
    for offset in range(0, len(data) + 1, _PIECE_BYTES):
        job.report("converting", offset, len(data) + 1)
        hasher.update(data[offset : offset + _PIECE_BYTES])
    return hasher.hexdigest()


def pool_full() -> ResourceExhaustedError:
    """What a real host says of a full pool."""
    return ResourceExhaustedError("the pool is full", "POOL_FULL")


def _key(ref: pb.StagingRef) -> tuple[str, str]:
    return ref.pool_id, ref.staging_id
