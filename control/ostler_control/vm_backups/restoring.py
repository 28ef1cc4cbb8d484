"""What restoring to a new volume needs: a pool, the offering, and the copy."""

from __future__ import annotations

from ostler_control.database import transaction
from ostler_control.models import BackupDisk, DiskOffering, Pool, Volume
from ostler_control.operations import Run
from ostler_control.scheduling import placement_query
from ostler_control.states import VolumeState
from ostler_control.vm_backups.rows import load_disk
from ostler_control.volumes import wire
from ostler_control.volumes.copying import copy_file
from ostler_control.volumes.host_jobs import check_host_available
from ostler_control.volumes.new_volume import first_accepted, required_bytes
from ostler_control.volumes.rows import load


def choose_pool(disk: BackupDisk, wanted: Pool | None) -> Pool:
    """The requested pool; else the one that the disk was in, or the best of the others, to which a host can copy."""
    choices = placement_query.pools_for(
        f"disk {disk.slot} of backup {disk.backup.name}",
        required_bytes(disk.provisioning, disk.size_bytes),
        disk.encrypted,
        pool_id=wanted.id if wanted else "",
    )
    own_first = sorted(choices, key=lambda pool_id: pool_id != disk.volume_pool_id)
    return first_accepted(own_first, lambda pool: check_host_available(disk.pool, True, pool))[0]


def offering_of(disk: BackupDisk) -> DiskOffering | None:
    """The disk offering of the volume that was backed up, unless it is retired or gone."""
    live = (DiskOffering.id == disk.disk_offering_id) & DiskOffering.retire_time.is_null()
    return DiskOffering.get_or_none(live)


def fill(run: Run, host_id: str, disk_id: str, volume_id: str, iter_time_ms: int) -> None:
    """Inside a step: makes the host create the volume's file from the disk's; the volume is ready then.

    Raises InternalError ENCRYPTION_MISSING unless its header says that it is encrypted as its row wants it.
    """
    volume = load(volume_id)
    info = copy_file(run, host_id, load_disk(disk_id), volume, iter_time_ms, size_bytes=volume.size_bytes)
    found = wire.encrypt_format(volume, info)
    size_bytes = max(volume.size_bytes, info.virtual_size_bytes)  # storage arrays round a raw device's size up
    with transaction():
        Volume.update(state=VolumeState.READY, state_reason="", encrypt_format=found, size_bytes=size_bytes).where(
            Volume.id == volume_id
        ).execute()
