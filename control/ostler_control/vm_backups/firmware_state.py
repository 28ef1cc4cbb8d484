"""What the firmware of a VM keeps, UEFI variables and the state of a TPM, in its backups.

A backup has a copy of its own with the key of the TPM, for it outlives the VM. It is kept in the database.
"""

from __future__ import annotations

import hmac
import zlib

from ostler.types.v1.vm_pb2 import FirmwareState
from ostler_common.errors import InternalError, OstlerError
from ostler_common.secret import Secret, new_passphrase

from ostler_control import events
from ostler_control.catalog.firmware import is_uefi
from ostler_control.database import session, transaction
from ostler_control.keys import Keyring, sealing
from ostler_control.keys.passphrases import delete_passphrase
from ostler_control.models import Backup, BackupFirmwareState, BackupTpm, Vm, new_id
from ostler_control.operations import Run
from ostler_control.vm_backups.definition import read
from ostler_control.vms import firmware_states, tpm
from ostler_control.vms.firmware_states import StateCopy


def keep(run: Run, vm_id: str, host_id: str) -> None:
    """Inside a step, just before the disks are copied: keeps with a backup what its VM's firmware keeps.

    host_id: where the VM runs, or ran last. A backup is worth having without it: what goes wrong is recorded with it.
    """
    newest, problem = None, ""
    try:
        newest = firmware_states.newest_copy(run, vm_id, host_id)
        if newest is None and host_id:
            problem = "there is no copy of it, and its host cannot make one"
        elif newest is not None and not newest.current:
            problem = "its host could not hand it out, so it is the last copy"
    except OstlerError as error:
        problem = error.message
    if newest is not None or problem:
        _store(run, vm_id, newest, problem)


def _store(run: Run, vm_id: str, newest: StateCopy | None, problem: str) -> None:
    tpm_key = tpm.passphrase_of(vm_id, run.keys) if newest is not None else None
    row_id, tpm_id, passphrase = new_id(), new_id(), new_passphrase()
    with transaction():
        backup = Backup.get_by_id(run.resource_id)
        forget(backup.id)
        BackupFirmwareState.create(
            id=row_id,
            backup=backup,
            passphrase=run.keys.store(passphrase, row_id) if newest is not None else None,
            sealed=sealing.seal(passphrase, zlib.compress(newest.content), row_id) if newest is not None else b"",
            copy_time=newest.time if newest is not None else None,
            problem=problem,
        )
        if tpm_key is not None:
            BackupTpm.create(id=tpm_id, backup=backup, passphrase=run.keys.store(tpm_key, tpm_id))
        if problem:
            _record_problem(run, backup, problem)


def _record_problem(run: Run, backup: Backup, problem: str) -> None:
    events.record(
        "backup.firmware-state",
        events.Outcome.FAILED,
        run.user,
        "backup",
        backup.id,
        backup.name,
        f"the backup does not have what the firmware of VM {backup.vm_name} keeps now: {problem}",
        operation_id=run.id,
        account_id=backup.account_id,
    )


def is_in(backup_id: str) -> bool:
    """Whether a backup has it."""
    row = BackupFirmwareState.get_or_none(BackupFirmwareState.backup == backup_id)
    return row is not None and bool(row.sealed)


def restore(run: Run, backup_id: str) -> None:
    """Inside a step: the next start of the run's VM is with what firmware kept at the backup, if that has it.

    A VM that has a TPM now, and not that of the backup, keeps all as it is; one whose firmware is another keeps its
    variables. Raises FailedPreconditionError SEAL_BROKEN.
    """
    _set_next(run, backup_id, new=False)


def restore_to_new(run: Run, backup_id: str) -> None:
    """The same for a VM that has never started: its TPM becomes a copy of the one that was backed up."""
    _set_next(run, backup_id, new=True)


def _set_next(run: Run, backup_id: str, *, new: bool) -> None:
    with session():
        backup, vm = Backup.get_by_id(backup_id), Vm.get_by_id(run.resource_id)
        row = BackupFirmwareState.get(BackupFirmwareState.backup == backup_id)
        key_row = BackupTpm.get_or_none(BackupTpm.backup == backup_id)
    state = _open(row, run.keys)
    if not is_uefi(vm.firmware) or vm.firmware != read(backup.definition).firmware:
        state.ClearField("variables")
    kept = run.keys.open(key_row) if key_row is not None else None
    own = tpm.passphrase_of(vm.id, run.keys)
    if own is None:
        state.ClearField("tpm")
    with transaction():
        if own is not None and not new and not _are_same(kept, own):
            message = f"it has another TPM than at backup {backup.name}, and keeps what its firmware keeps now"
            firmware_states.record_event(run, f"{message}; a new VM gets that of the backup")
            return
        if new and state.tpm and kept is not None:
            tpm.set_key(vm.id, kept, run.keys)
        if state.variables or state.tpm:
            firmware_states.set_next(vm.id, state.SerializeToString(), run.keys)


def _are_same(kept: Secret | None, own: Secret) -> bool:
    """Whether the key of the backup's TPM, if it has one, is that of the VM's."""
    return kept is not None and hmac.compare_digest(kept.reveal(), own.reveal())


def _open(row: BackupFirmwareState, keys: Keyring) -> FirmwareState:
    what, remedy = "what the firmware kept at the backup", "restore another backup, or the disks alone"
    content = sealing.unseal(keys.open(row), bytes(row.sealed), row.id, what, remedy)
    unpacker = zlib.decompressobj()
    state = unpacker.decompress(content, firmware_states.MAX_BYTES)
    if not unpacker.eof:
        raise InternalError("what the firmware kept at the backup is too large", "FIRMWARE_STATE_SIZE")
    return FirmwareState.FromString(state)


def forget(backup_id: str) -> None:
    """Deletes it with its keys: within the caller's transaction, before the backup's row goes."""
    for model in (BackupFirmwareState, BackupTpm):
        row = model.get_or_none(model.backup == backup_id)
        if row is not None:
            model.delete().where(model.id == row.id).execute()
            delete_passphrase(row.passphrase_id)
