"""Backups in a bucket: their files are written to the spool of a host, sent from there in parts, and deleted there.

The host gets URLs, each to put one part. This process begins, completes and aborts uploads, and deletes objects.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog
from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler_common.errors import OstlerError

from ostler_control.database import session, transaction
from ostler_control.hosts.rows import address_of
from ostler_control.keys import Keyring
from ostler_control.models import Backup, BackupDisk, BackupSpool, Host
from ostler_control.objects import stores
from ostler_control.objects.bucket import Bucket
from ostler_control.operations import Run
from ostler_control.states import BackupState
from ostler_control.vm_backups.rows import delete_file, load_disk
from ostler_control.volumes import wire

log = structlog.get_logger(__name__)

# A store takes at most 10,000 parts of an object, each but the last of 5 MiB to 5 GiB.
MIN_PART_BYTES, MAX_PARTS = 64 << 20, 10_000
PARTS_PER_JOB = 16
MAX_ETAG = 256
ATTEMPTS = 3
_AGAIN = ("INTERRUPTED", "STORE_NOT_REACHED", "STORE_TOO_SLOW")


def plan(size_bytes: int) -> list[tuple[int, int]]:
    """The parts in which a file is sent: offset and size of each."""
    part_bytes = max(MIN_PART_BYTES, -(-size_bytes // MAX_PARTS))
    return [(offset, min(part_bytes, size_bytes - offset)) for offset in range(0, size_bytes, part_bytes)]


def record_spool(backup_id: str, host_id: str) -> None:
    """Inside a step: from now on that host may have files of the backup. The step may be a repetition."""
    with transaction():
        BackupSpool.delete().where(BackupSpool.backup == backup_id).execute()
        BackupSpool.create(backup=backup_id, host_id=host_id)


def spool_host(backup_id: str) -> str:
    """Id of the host that may have files of a backup in its spool; "" for none, or for one that is no more."""
    with session():
        row = BackupSpool.get_or_none(BackupSpool.backup == backup_id)
        if row is None or not Host.select().where((Host.id == row.host_id) & ~Host.removed).exists():
            return ""
        return row.host_id


def send(run: Run, host_id: str, number: int, disk_id: str, share: tuple[int, int]) -> None:
    """Steps that make a disk's file, which is in the host's spool, an object. share: percent of the operation."""
    upload_id, size_bytes = run.step(f"begin-upload-{number}", lambda: _begin(run, disk_id))
    parts, (low, high) = plan(size_bytes), share
    etags: list[str] = []
    for first in range(0, len(parts), PARTS_PER_JOB):
        batch = parts[first : first + PARTS_PER_JOB]
        done, next_done = (low + (high - low) * n // len(parts) for n in (first, first + len(batch)))
        job = partial(_send_parts, run, host_id, disk_id, upload_id, first, batch, (done, next_done))
        etags += _retried(run, f"upload-{number}-{first}", job)
    run.step(f"finish-upload-{number}", lambda: _finish(run, disk_id, upload_id, etags, size_bytes))


def _retried(run: Run, name: str, body: Callable[[], list[str]]) -> list[str]:
    """A step that is tried again when the agent was restarted, or the store could not be reached for a while."""
    for attempt in range(1, ATTEMPTS):
        try:
            return run.step(f"{name}-{attempt}", body)
        except OstlerError as error:
            if error.reason not in _AGAIN:
                raise
    return run.step(f"{name}-{ATTEMPTS}", body)


def _begin(run: Run, disk_id: str) -> tuple[str, int]:
    disk = load_disk(disk_id)
    return _bucket(disk_id, run.keys).begin_upload(stores.key_of(disk)), disk.file_size_bytes


def _send_parts(
    run: Run,
    host_id: str,
    disk_id: str,
    upload_id: str,
    first: int,
    batch: list[tuple[int, int]],
    share: tuple[int, int],
) -> list[str]:
    disk, bucket = load_disk(disk_id), _bucket(disk_id, run.keys)
    life_s = stores.life_s(sum(size_bytes for _, size_bytes in batch))
    request = agent_pb2.UploadVolumeRequest(
        operation=run.ref(),
        volume=wire.plain_ref(disk),
        parts=[
            agent_pb2.UploadPart(
                url=bucket.part_url(stores.key_of(disk), upload_id, number, life_s),
                offset=offset,
                size_bytes=size_bytes,
            )
            for number, (offset, size_bytes) in enumerate(batch, first + 1)
        ],
        ca_pem=bucket.ca_pem.encode(),
    )
    update = run.job(address_of(host_id), lambda agent: agent.volumes.UploadVolume, request, share)
    return [etag[:MAX_ETAG] for etag in update.uploaded_parts.etags]


def _finish(run: Run, disk_id: str, upload_id: str, etags: list[str], size_bytes: int) -> None:
    _bucket(disk_id, run.keys).complete_upload(stores.key_of(load_disk(disk_id)), upload_id, etags, size_bytes)


def _leftovers(host_id: str, own_id: str) -> list[str]:
    """Ids of the disks that this host still may have in its spool: of complete backups that no operation holds, and of
    the operation's own."""
    with session():
        spools = BackupSpool.select(BackupSpool.backup).where(BackupSpool.host_id == host_id)
        complete = (Backup.state == BackupState.READY) & ((Backup.operation_id == "") | (Backup.id == own_id))
        backups = Backup.select(Backup.id).where(Backup.id.in_(spools) & complete)
        return [disk.id for disk in BackupDisk.select().where(BackupDisk.backup.in_(backups))]


def clear_spool(run: Run, host_id: str, name: str) -> None:
    """Steps that delete from a host's spool what is complete in a bucket. name: of the steps.

    What a host does not delete now is deleted by the next backup there, or with its own.
    """
    disks: list[str] = run.always(f"{name}-find", lambda: _leftovers(host_id, run.resource_id))
    try:
        for number, disk_id in enumerate(disks):
            run.always(f"{name}-{number}", partial(delete_file, run, host_id, disk_id))
    except OstlerError as error:
        log.warning("files stay in the spool of a host", host=host_id, operation=run.id, reason=error.reason)
        return
    if disks:
        run.always(f"{name}-forget", lambda: _forget_spools(disks))


def _forget_spools(disks: list[str]) -> None:
    with transaction():
        backups = BackupDisk.select(BackupDisk.backup).where(BackupDisk.id.in_(disks))
        BackupSpool.delete().where(BackupSpool.backup.in_(backups)).execute()


def remove_object(disk_id: str, keys: Keyring) -> None:
    """Inside a step: deletes the object of a disk's file and what was sent for it; nothing for a store of files."""
    with session():
        disk = BackupDisk.get_or_none(BackupDisk.id == disk_id)
    bucket = stores.bucket_of(disk.pool_id, keys) if disk is not None else None
    if disk is not None and bucket is not None:
        bucket.remove(stores.key_of(disk))


def _bucket(disk_id: str, keys: Keyring) -> Bucket:
    bucket = stores.bucket_of(load_disk(disk_id).pool_id, keys)
    assert bucket is not None
    return bucket
