"""VMs that begin as copies of something: clones, and those restored from a backup."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from ostler_common.errors import CancelledError

from ostler_control.database import transaction
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import PowerState, Vm, VmState, Volume
from ostler_control.operations import Run, Undo
from ostler_control.states import VolumeState
from ostler_control.userdata import vm_user_data
from ostler_control.vms import firmware_states, tpm
from ostler_control.vms.rows import set_state
from ostler_control.volumes.rows import load_or_none

_MAX_VOLUME_NAME_PART = 50  # so that the disk and a suffix fit into a name of 63 characters


def free_volume_name(vm: Vm, *, root: bool, slot: int) -> str:
    """The VM's name and the disk, with a random suffix when the account has a volume of that name."""
    disk = "root" if root else f"data-{slot}"
    name = f"{vm.name[: _MAX_VOLUME_NAME_PART - len(disk)]}-{disk}"
    taken = Volume.select().where((Volume.account == vm.account_id) & (Volume.name == name)).exists()
    return f"{name}-{secrets.token_hex(3)}" if taken else name


def removal(number: int) -> str:
    """Name of the undo step that deletes the file of a disk."""
    return f"remove-{number}"


def record_stopped(vm_id: str) -> None:
    """The last step: its disks are complete."""
    set_state(vm_id, VmState.STOPPED, power_state=PowerState.ABSENT)


def record_failure(run: Run, undo: Undo, volume_ids: Sequence[str], failure: str) -> None:
    """The last undo step, after every `removal`. Disks whose files are gone leave no rows; the VM's row stays as
    failed, unless the operation was cancelled and nothing is left of it.

    failure: as people read it, such as "not cloned".
    """
    clean = True
    with transaction():
        for number, volume_id in enumerate(volume_ids):
            volume = load_or_none(volume_id)
            if volume is None:
                continue
            if undo.failed(removal(number)):
                clean = False
                Volume.update(state=VolumeState.FAILED, state_reason=str(undo.error)).where(
                    Volume.id == volume.id
                ).execute()
            else:
                delete_volume(volume, run.user, run.id)
        if clean and isinstance(undo.error, CancelledError):
            vm_user_data.forget_all(run.resource_id)
            tpm.forget(run.resource_id)
            firmware_states.forget(run.resource_id)
            Vm.delete().where(Vm.id == run.resource_id).execute()
        else:
            attention = f"{failure}: {undo.error}"
            set_state(run.resource_id, VmState.FAILED, power_state=PowerState.ABSENT, attention=attention)
