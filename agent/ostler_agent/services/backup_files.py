"""Files of backups: between the wire and `conversion.backup_files`."""

from __future__ import annotations

import stat

from google.protobuf.timestamp_pb2 import Timestamp
from ostler.agent.v1 import volume_pb2
from ostler.types.v1 import backup_file_pb2
from ostler_common.guest_info import MAX_TIME_S

from ostler_agent.conversion.backup_files import File, Found, WantedFiles
from ostler_agent.services import convert
from ostler_agent.spec import VolumeRef

_PERMISSIONS = 0o7777
_MAX_SIZE = (1 << 63) - 1


def disks(request: volume_pb2.ReadBackupFilesRequest) -> list[list[VolumeRef]]:
    return [
        [convert.volume_ref(ref, f"disks[{number}].layers") for ref in chain.layers]
        for number, chain in enumerate(request.disks)
    ]


def wanted(request: volume_pb2.ReadBackupFilesRequest) -> WantedFiles:
    return WantedFiles(request.path, request.file_system, request.content)


def response(found: Found) -> volume_pb2.ReadBackupFilesResponse:
    return volume_pb2.ReadBackupFilesResponse(
        phase=found.phase,
        file_systems=[
            backup_file_pb2.BackupFileSystem(
                name=one.name, type=one.type, label=one.label, size_bytes=_size(one.size_bytes)
            )
            for one in found.file_systems
        ],
        files=[_file(one) for one in found.files],
        more=found.more,
        archive=found.archive,
        size_bytes=_size(found.size_bytes),
        data=found.data,
        complete=found.complete,
    )


def _file(found: File) -> backup_file_pb2.BackupFile:
    return backup_file_pb2.BackupFile(
        name=found.name,
        kind=_kind(found.mode),
        size_bytes=_size(found.size_bytes),
        modify_time=Timestamp(seconds=min(max(found.modify_time_s, 0), MAX_TIME_S)),
        permissions=found.mode & _PERMISSIONS,
    )


def _kind(mode: int) -> backup_file_pb2.BackupFile.Kind.ValueType:
    if stat.S_ISREG(mode):
        return backup_file_pb2.BackupFile.FILE
    if stat.S_ISDIR(mode):
        return backup_file_pb2.BackupFile.DIRECTORY
    return backup_file_pb2.BackupFile.LINK if stat.S_ISLNK(mode) else backup_file_pb2.BackupFile.SPECIAL


def _size(size_bytes: int) -> int:
    """As a disk says it, but within the field."""
    return min(max(size_bytes, 0), _MAX_SIZE)
