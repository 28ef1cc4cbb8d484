"""Deleting a volume: its file first, then its row and its passphrase together."""

from __future__ import annotations

from ostler_common.errors import FailedPreconditionError

from ostler_control.database import transaction
from ostler_control.hosts.rows import has_hosts
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import Operation, Volume
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.states import VolumeState
from ostler_control.volumes import host_jobs, matrix
from ostler_control.volumes.create import delete_file
from ostler_control.volumes.rows import load_or_none, vm_of


def delete(volume: Volume, user: str, operation_id: str = "") -> Operation:
    """Records the operation that deletes a volume, in whatever state it is.

    Raises FailedPreconditionError: ATTACHED, ROOT_VOLUME, NO_CAPABLE_HOST.
    """
    volume = lock_row(volume)
    vm = vm_of(volume)
    if vm is not None:
        reason = "ROOT_VOLUME" if volume.root else "ATTACHED"
        advice = "delete the VM" if volume.root else "detach it first"
        raise FailedPreconditionError(f"volume {volume.name} belongs to VM {vm.name}; {advice}", reason, {"vm": vm.id})
    matrix.check(matrix.Operation.DELETE, volume, False)
    if has_hosts(volume.pool_id):
        host_jobs.check_host_available(volume.pool, False)
    operation = record_operation("volume.delete", volume, user, {}, operation_id=operation_id)
    Volume.update(state=VolumeState.DELETING, state_reason="").where(Volume.id == volume.id).execute()
    return operation


@workflow("volume.delete")
def _delete(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, undo))
        host_id: str = run.step("choose", lambda: choose_host_to_delete(run, run.resource_id))
        if host_id:
            run.step("remove", lambda: delete_file(run, host_id, run.resource_id))
        undo.clear()
        run.always("forget", lambda: forget(run, run.resource_id))  # the file is gone: nothing can be undone any more


def choose_host_to_delete(run: Run, volume_id: str) -> str:
    """Inside a step: see `host_jobs.choose_to_delete`."""
    return host_jobs.choose_to_delete(run, load_or_none(volume_id))


def forget(run: Run, volume_id: str) -> None:
    """Inside a step: deletes the rows of a volume whose file is gone."""
    with transaction():
        volume = load_or_none(volume_id)
        if volume is not None:
            delete_volume(volume, run.user, run.id)


def _record_failure(run: Run, undo: Undo) -> None:
    with transaction():
        Volume.update(state=VolumeState.FAILED, state_reason=f"not deleted: {undo.error}").where(
            Volume.id == run.resource_id
        ).execute()
