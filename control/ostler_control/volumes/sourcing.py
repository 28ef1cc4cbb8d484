"""What a host is told of complete files of backups that it is to read."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.types.v1 import volume_pb2

from ostler_control.keys import Keyring
from ostler_control.models import BackupDisk
from ostler_control.objects import stores
from ostler_control.volumes import wire


def sources(disks: Sequence[BackupDisk], keys: Keyring) -> list[volume_pb2.VolumeRef]:
    """The files of disks of one store, with their passphrases, and where to get those that are in a bucket: only to be
    sent to an agent."""
    refs = [wire.keyed_ref(disk, keys) for disk in disks]
    stores.name_remote(refs, disks, keys)
    return refs
