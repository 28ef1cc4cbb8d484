"""Verifying a backup: every file is read whole, opens with its key, and is what was written."""

from __future__ import annotations

from functools import partial

from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import job_pb2, volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError

from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.models import Backup, BackupDisk, Operation, now
from ostler_control.operations import Run, record_operation, workflow
from ostler_control.vm_backups.rows import disks_of, load_disk, lock_ready
from ostler_control.volumes import host_jobs
from ostler_control.volumes.increments import parents_of
from ostler_control.volumes.sourcing import sources

# What a host says of a file that is not the one that was written.
_DAMAGES = ("VOLUME_NOT_FOUND", "OBJECT_DAMAGED", "WRONG_KEY", "NOT_ENCRYPTED", "NOT_AN_IMAGE", "BACKING_FILE_REFUSED")


def verify(backup: Backup, user: str) -> Operation:
    """Records the operation that verifies a backup; it fails with BACKUP_DAMAGED when a file is not as it was written.

    Raises AbortedError RESOURCE_BUSY; FailedPreconditionError BACKUP_STATE, NO_CAPABLE_HOST.
    """
    backup = lock_ready(backup)
    host_jobs.check_host_available(backup.pool, True)
    return record_operation("backup.verify", backup, user, {})


def digest(run: Run, host_id: str, file: volume_pb2.VolumeRef, share: tuple[int, int]) -> job_pb2.VolumeDigest:
    """Inside a step: has the host open a disk's file with its key and read it whole."""
    request = agent_pb2.DigestVolumeRequest(operation=run.ref(), volume=file)
    return run.job(address_of(host_id), lambda agent: agent.volumes.DigestVolume, request, share).volume_digest


@workflow("backup.verify")
def _verify(run: Run) -> None:
    host_id, disks = run.step("choose", lambda: _choose(run))
    problems: list[str] = []
    for number, disk_id in enumerate(disks):
        low, high = 100 * number // len(disks), 100 * (number + 1) // len(disks)
        problem: str = run.step(f"digest-{number}", partial(_problem, run, host_id, disk_id, (low, high)))
        problems += [problem] if problem else []
    run.step("record", lambda: _record(run, "; ".join(problems)))
    if problems:
        raise FailedPreconditionError(
            f"the backup is damaged: {'; '.join(problems)}; use another one, and look after the store",
            "BACKUP_DAMAGED",
            {"backup": run.resource_id},
        )


def _choose(run: Run) -> tuple[str, list[str]]:
    """The host, and the ids of the disks with those that they build on."""
    disks = disks_of(run.resource_id)
    files = [file for disk in disks for file in (disk, *parents_of(disk))]
    return host_jobs.choose_for(run, disks[0]), [file.id for file in files]


def _problem(run: Run, host_id: str, disk_id: str, share: tuple[int, int]) -> str:
    """What is wrong with a disk's file, "" for nothing."""
    disk = load_disk(disk_id)
    try:
        found = digest(run, host_id, sources([disk], run.keys)[0], share)
    except OstlerError as error:
        if error.reason not in _DAMAGES:
            raise
        return _damage(run, disk, error.message)
    if (found.sha256, found.file_size_bytes) != (disk.sha256, disk.file_size_bytes):
        return _damage(run, disk, "its file is not the one that was written")
    return ""


def _damage(run: Run, disk: BackupDisk, what: str) -> str:
    """For people. A damaged file of another backup is recorded there, too, so that no new one builds on it."""
    problem = f"disk {disk.slot} ({disk.volume_name}): {what}"
    if disk.backup_id == run.resource_id:
        return problem
    with transaction():
        Backup.update(verify_time=now(), verify_error=problem).where(Backup.id == disk.backup_id).execute()
    return f"backup {disk.backup.name}, on which it builds: {problem}"


def _record(run: Run, problem: str) -> None:
    with transaction():
        Backup.update(verify_time=now(), verify_error=problem).where(Backup.id == run.resource_id).execute()
