"""Deleting a backup: its files first, then its rows and its keys together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ostler_control.database import transaction
from ostler_control.hosts.rows import has_hosts
from ostler_control.models import Backup, BackupState, Operation
from ostler_control.objects import stores
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.vm_backups.chains import check_unneeded
from ostler_control.vm_backups.rows import delete_file, destroy, disks_of, load_or_none, record_last_error
from ostler_control.vm_backups.uploads import remove_object, spool_host
from ostler_control.volumes import host_jobs


@dataclass(frozen=True)
class DeleteInputs:
    """bucket: the store is one."""

    bucket: bool = False


def delete(backup: Backup, user: str) -> Operation:
    """Records the operation that deletes a backup, in whatever state it is.

    Raises AbortedError RESOURCE_BUSY; FailedPreconditionError NO_CAPABLE_HOST, BACKUP_NEEDED.
    """
    backup = lock_row(backup)
    check_unneeded(backup)
    bucket = stores.has_bucket(backup.pool_id)
    if not bucket and has_hosts(backup.pool_id):
        host_jobs.check_host_available(backup.pool, False)
    operation = record_operation("backup.delete", backup, user, DeleteInputs(bucket))
    Backup.update(state=BackupState.DELETING, state_reason="").where(Backup.id == backup.id).execute()
    return operation


@workflow("backup.delete")
def _delete(run: Run) -> None:
    inputs = run.read(DeleteInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        host_id, disks = run.step("choose", lambda: _choose(run, inputs))
        if inputs.bucket:
            for number, disk_id in enumerate(disks):
                run.step(f"remove-object-{number}", partial(remove_object, disk_id, run.keys))
        if host_id:
            for number, disk_id in enumerate(disks):
                run.step(f"remove-{number}", partial(delete_file, run, host_id, disk_id))
        undo.clear()
        run.always("forget", lambda: _forget(run))  # the files are gone: nothing can be undone any more


def _choose(run: Run, inputs: DeleteInputs) -> tuple[str, list[str]]:
    """The host that deletes files, "" when there are none to delete, and the ids of the disks."""
    disks = disks_of(run.resource_id)
    if inputs.bucket:
        return spool_host(run.resource_id), [disk.id for disk in disks]
    host_id = host_jobs.choose_to_delete(run, disks[0]) if disks else ""
    return host_id, [disk.id for disk in disks]


def _forget(run: Run) -> None:
    with transaction():
        backup = load_or_none(run.resource_id)
        if backup is not None:
            destroy(backup, run)


def _record_failure(run: Run, undo: Undo) -> None:
    reason = f"not deleted: {undo.error}"
    with transaction():
        record_last_error(run.resource_id, reason)
        Backup.update(state=BackupState.FAILED, state_reason=reason).where(Backup.id == run.resource_id).execute()
