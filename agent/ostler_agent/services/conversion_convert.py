"""Imports to and from protobuf; bad input is refused here, by field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ostler.agent.v1 import conversion_pb2
from ostler.types.v1 import job_pb2
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_agent.conversion.archives import ArchiveFile
from ostler_agent.conversion.disk_writes import Data, Zero
from ostler_agent.conversion.disk_writes import End as EndOfDisk
from ostler_agent.conversion.disks import SourceDisk
from ostler_agent.conversion.guest_conversion import GuestOptions
from ostler_agent.conversion.in_place import GuestVolume
from ostler_agent.conversion.inspection import Inspection
from ostler_agent.conversion.staging import StagedFile, Staging, StagingRef
from ostler_agent.conversion.uploads import Begin, End
from ostler_agent.conversion.volume_set import ConversionReport
from ostler_agent.services import convert
from ostler_agent.spec import SourceFormat, VolumeRef
from ostler_agent.tools import ovftool

_FORMATS = {
    conversion_pb2.SOURCE_FORMAT_VMDK: SourceFormat.VMDK,
    conversion_pb2.SOURCE_FORMAT_QCOW2: SourceFormat.QCOW2,
    conversion_pb2.SOURCE_FORMAT_RAW: SourceFormat.RAW,
    conversion_pb2.SOURCE_FORMAT_VHDX: SourceFormat.VHDX,
    conversion_pb2.SOURCE_FORMAT_VDI: SourceFormat.VDI,
}
_TO_FORMATS = {value: key for key, value in _FORMATS.items()}


def staging_ref(message: conversion_pb2.StagingRef, path: str = "staging") -> StagingRef:
    """Raises InvalidArgumentError."""
    return StagingRef(
        pool_id=convert.uuid_field(message.pool_id, f"{path}.pool_id"),
        staging_id=convert.uuid_field(message.staging_id, f"{path}.staging_id"),
    )


def staging(value: Staging) -> conversion_pb2.Staging:
    return conversion_pb2.Staging(
        ref=conversion_pb2.StagingRef(pool_id=value.ref.pool_id, staging_id=value.ref.staging_id),
        available_bytes=value.available_bytes,
        files=[staged_file(file) for file in value.files],
    )


def staged_file(value: StagedFile) -> conversion_pb2.StagedFile:
    return conversion_pb2.StagedFile(name=value.name, size_bytes=value.size_bytes, complete=value.complete)


def upload(requests: Iterator[conversion_pb2.UploadFileRequest]) -> tuple[Begin, Iterator[bytes | End]]:
    """An upload's beginning, and the pieces that follow. Raises InvalidArgumentError, then and later."""
    first = next(requests, None)
    if first is None or not first.HasField("begin"):
        raise bad_field("begin", "must be the first message of an upload")
    message = first.begin
    begin = Begin(
        staging=staging_ref(message.staging, "begin.staging"),
        name=message.name,
        offset=convert.size_field(message.offset, "begin.offset"),
        max_size_bytes=convert.size_field(message.max_size_bytes, "begin.max_size_bytes"),
    )
    return begin, (_piece(request) for request in requests)


def export_source(message: conversion_pb2.ExportVmRequest) -> ovftool.Source:
    return ovftool.Source(
        server=message.server,
        username=message.username,
        password=Secret(message.password),
        thumbprint=message.thumbprint,
        moref=message.vm_moref,
    )


def archive_files(message: conversion_pb2.DownloadArchiveRequest) -> list[ArchiveFile]:
    """Raises InvalidArgumentError."""
    return [
        ArchiveFile(file.name, file.staged_name, convert.size_field(file.size_bytes, f"files[{number}].size_bytes"))
        for number, file in enumerate(message.files)
    ]


def inspection(value: Inspection) -> conversion_pb2.InspectStagingResponse:
    response = conversion_pb2.InspectStagingResponse(
        images=[
            conversion_pb2.StagedImage(
                name=image.name,
                format=_TO_FORMATS[image.format],
                virtual_size_bytes=image.virtual_size_bytes,
                file_size_bytes=image.file_size_bytes,
                encrypted=image.encrypted,
                manifest_sha256=value.digests.get(image.name, ""),
            )
            for image in value.images
        ]
    )
    if value.ovf:
        response.ovf.name = value.ovf.name
        response.ovf.xml = value.ovf.xml
    return response


def source_disks(message: conversion_pb2.ConvertVmRequest) -> list[SourceDisk]:
    """Raises InvalidArgumentError."""
    return [_source_disk(disk, f"disks[{number}]") for number, disk in enumerate(message.disks)]


def guest_options(message: conversion_pb2.ConvertVmRequest) -> GuestOptions | None:
    """None when the disks are only copied. Raises InvalidArgumentError."""
    if message.mode == conversion_pb2.ConvertVmRequest.COPY:
        if message.extra_arguments:
            raise bad_field("extra_arguments", "must be empty when the disks are only copied")
        return None
    if message.mode != conversion_pb2.ConvertVmRequest.CONVERT:
        raise bad_field("mode", "must be CONVERT or COPY")
    return GuestOptions(convert.firmware(message.firmware, "firmware"), tuple(message.extra_arguments))


def disk_write(
    requests: Iterator[conversion_pb2.WriteDiskRequest],
) -> tuple[VolumeRef, Iterator[Data | Zero | EndOfDisk]]:
    """The volume that is written, and the pieces that follow. Raises InvalidArgumentError, then and later."""
    first = next(requests, None)
    if first is None or not first.HasField("begin"):
        raise bad_field("begin", "must be the first message")
    return convert.volume_ref(first.begin.volume, "begin.volume"), (_disk_piece(request) for request in requests)


def _disk_piece(message: conversion_pb2.WriteDiskRequest) -> Data | Zero | EndOfDisk:
    if message.HasField("data"):
        return Data(message.data.offset, message.data.data)
    if message.HasField("zero"):
        return Zero(message.zero.offset, message.zero.length)
    if message.HasField("end"):
        return EndOfDisk(message.end.sha256.lower())
    raise bad_field("piece", "must be data, zero or end after the first message")


def guest_volumes(message: conversion_pb2.ConvertVolumesRequest) -> list[GuestVolume]:
    """Raises InvalidArgumentError."""
    return [
        GuestVolume(
            key=disk.key,
            target=convert.volume_ref(disk.volume, f"disks[{number}].volume"),
            provisioning=convert.provisioning(disk.provisioning, f"disks[{number}].provisioning"),
        )
        for number, disk in enumerate(message.disks)
    ]


def in_place_options(message: conversion_pb2.ConvertVolumesRequest) -> GuestOptions:
    """Raises InvalidArgumentError."""
    return GuestOptions(convert.firmware(message.firmware, "firmware"), tuple(message.extra_arguments))


def report(disks: Sequence[SourceDisk | GuestVolume], value: ConversionReport) -> job_pb2.ConversionReport:
    return job_pb2.ConversionReport(
        disks=[
            job_pb2.ConvertedDisk(key=disk.key, volume=convert.volume_info(volume))
            for disk, volume in zip(disks, value.volumes, strict=True)
        ],
        elapsed_ms=value.elapsed_ms,
        warnings=value.warnings,
    )


def _source_disk(message: conversion_pb2.SourceDisk, path: str) -> SourceDisk:
    if message.format not in _FORMATS:
        raise bad_field(f"{path}.format", "is not a known format")
    source_key = convert.key(message.source_key, f"{path}.source_key") if message.HasField("source_key") else None
    return SourceDisk(
        key=message.key,
        name=message.name,
        format=_FORMATS[message.format],
        target=convert.volume_ref(message.target, f"{path}.target"),
        source_key=source_key,
        sha256=message.sha256.lower(),
        size_bytes=convert.size_field(message.size_bytes, f"{path}.size_bytes"),
        provisioning=convert.provisioning(message.provisioning, f"{path}.provisioning"),
    )


def _piece(message: conversion_pb2.UploadFileRequest) -> bytes | End:
    if message.HasField("data"):
        return message.data
    if message.HasField("end"):
        return End(message.end.size_bytes, message.end.sha256.lower())
    raise bad_field("piece", "must be data or end after the first message")
