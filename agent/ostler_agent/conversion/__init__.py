"""Imports: foreign disks staged in a pool, inspected, and turned into volumes."""

from __future__ import annotations

from ostler_agent.conversion.archives import Archives
from ostler_agent.conversion.backup_files import BackupFiles
from ostler_agent.conversion.conversions import Conversions
from ostler_agent.conversion.disk_writes import DiskWrites
from ostler_agent.conversion.exports import Exports
from ostler_agent.conversion.guest_conversion import GuestConverter
from ostler_agent.conversion.in_place import InPlaceConversions
from ostler_agent.conversion.remote_copies import RemoteCopies
from ostler_agent.conversion.remote_vms import RemoteVms
from ostler_agent.conversion.staging import StagingDirectories, StagingRef
from ostler_agent.conversion.uploads import Uploads

__all__ = [
    "Archives",
    "BackupFiles",
    "Conversions",
    "DiskWrites",
    "Exports",
    "GuestConverter",
    "InPlaceConversions",
    "RemoteCopies",
    "RemoteVms",
    "StagingDirectories",
    "StagingRef",
    "Uploads",
]
