"""ConversionService."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from google.protobuf.message import Message
from ostler.agent.v1 import conversion_pb2, conversion_pb2_grpc
from ostler.types.v1 import job_pb2

from ostler_agent.conversion import (
    Archives,
    Conversions,
    DiskWrites,
    Exports,
    InPlaceConversions,
    StagingDirectories,
    Uploads,
    inspection,
)
from ostler_agent.jobs import Jobs
from ostler_agent.journal import Record
from ostler_agent.services import conversion_convert, convert

Updates = Iterator[job_pb2.JobUpdate]


class ConversionService(conversion_pb2_grpc.ConversionServiceServicer):
    def __init__(
        self,
        jobs: Jobs,
        staging: StagingDirectories,
        conversions: Conversions,
        writes: DiskWrites,
        in_place: InPlaceConversions,
    ) -> None:
        self._jobs = jobs
        self._staging = staging
        self._uploads = Uploads(staging)
        self._exports = Exports(staging)
        self._archives = Archives(staging)
        self._conversions = conversions
        self._writes = writes
        self._in_place = in_place
        jobs.on_recover("conversion.export", self._recover_export)
        jobs.on_recover("conversion.download", self._recover_download)
        jobs.on_recover("conversion.convert", self._recover_convert)
        jobs.on_recover("conversion.in-place", self._recover_in_place)

    def CreateStaging(
        self, request: conversion_pb2.CreateStagingRequest, context: grpc.ServicerContext
    ) -> conversion_pb2.Staging:
        ref = conversion_convert.staging_ref(request.staging)
        needed_bytes = convert.size_field(request.needed_bytes, "needed_bytes")
        return conversion_convert.staging(self._staging.create(ref, needed_bytes))

    def GetStaging(
        self, request: conversion_pb2.GetStagingRequest, context: grpc.ServicerContext
    ) -> conversion_pb2.Staging:
        return conversion_convert.staging(self._staging.inspect(conversion_convert.staging_ref(request.staging)))

    def UploadFile(
        self, requests: Iterator[conversion_pb2.UploadFileRequest], context: grpc.ServicerContext
    ) -> conversion_pb2.StagedFile:
        begin, pieces = conversion_convert.upload(requests)
        return conversion_convert.staged_file(self._uploads.receive(begin, pieces))

    def DeleteStaging(
        self, request: conversion_pb2.DeleteStagingRequest, context: grpc.ServicerContext
    ) -> conversion_pb2.DeleteStagingResponse:
        self._staging.delete(conversion_convert.staging_ref(request.staging))
        return conversion_pb2.DeleteStagingResponse()

    def ExportVm(self, request: conversion_pb2.ExportVmRequest, context: grpc.ServicerContext) -> Updates:
        ref = conversion_convert.staging_ref(request.staging)
        source = conversion_convert.export_source(request)
        return self._jobs.run(
            request.operation,
            "conversion.export",
            request,
            lambda job: self._exports.export(job, ref, source, request.parallel_threads or 1, request.timeout_s),
        )

    def DownloadArchive(self, request: conversion_pb2.DownloadArchiveRequest, context: grpc.ServicerContext) -> Updates:
        ref = conversion_convert.staging_ref(request.staging)
        source = convert.direct_source(request.direct, "direct")
        size_bytes = convert.size_field(request.archive_size_bytes, "archive_size_bytes")
        files = conversion_convert.archive_files(request)
        return self._jobs.run(
            request.operation,
            "conversion.download",
            request,
            lambda job: self._archives.download(job, ref, source, size_bytes, files, request.timeout_s),
        )

    def InspectStaging(
        self, request: conversion_pb2.InspectStagingRequest, context: grpc.ServicerContext
    ) -> conversion_pb2.InspectStagingResponse:
        ref = conversion_convert.staging_ref(request.staging)
        with self._staging.using(ref) as directory:
            return conversion_convert.inspection(inspection.inspect_all(directory, list(request.images)))

    def ConvertVm(self, request: conversion_pb2.ConvertVmRequest, context: grpc.ServicerContext) -> Updates:
        ref = conversion_convert.staging_ref(request.staging)
        disks = conversion_convert.source_disks(request)
        options = conversion_convert.guest_options(request)
        return self._jobs.run(
            request.operation,
            "conversion.convert",
            request,
            lambda job: conversion_convert.report(
                disks, self._conversions.convert(job, ref, disks, options, request.timeout_s)
            ),
        )

    def WriteDisk(
        self, requests: Iterator[conversion_pb2.WriteDiskRequest], context: grpc.ServicerContext
    ) -> conversion_pb2.WriteDiskResponse:
        ref, pieces = conversion_convert.disk_write(requests)
        return conversion_pb2.WriteDiskResponse(data_bytes=self._writes.receive(ref, pieces))

    def ConvertVolumes(self, request: conversion_pb2.ConvertVolumesRequest, context: grpc.ServicerContext) -> Updates:
        disks = conversion_convert.guest_volumes(request)
        options = conversion_convert.in_place_options(request)
        return self._jobs.run(
            request.operation,
            "conversion.in-place",
            request,
            lambda job: conversion_convert.report(
                disks, self._in_place.convert(job, disks, options, request.timeout_s)
            ),
        )

    def _recover_in_place(self, record: Record) -> Message:
        disks = conversion_convert.guest_volumes(record.request_as(conversion_pb2.ConvertVolumesRequest))
        return conversion_convert.report(disks, self._in_place.recover([disk.target for disk in disks], record.facts))

    def _recover_export(self, record: Record) -> None:
        request = record.request_as(conversion_pb2.ExportVmRequest)
        self._exports.recover(conversion_convert.staging_ref(request.staging))

    def _recover_download(self, record: Record) -> None:
        request = record.request_as(conversion_pb2.DownloadArchiveRequest)
        self._archives.recover(
            conversion_convert.staging_ref(request.staging), conversion_convert.archive_files(request)
        )

    def _recover_convert(self, record: Record) -> Message:
        disks = conversion_convert.source_disks(record.request_as(conversion_pb2.ConvertVmRequest))
        targets = [disk.target for disk in disks]
        return conversion_convert.report(disks, self._conversions.recover(targets, record.facts))
