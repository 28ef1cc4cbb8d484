"""Deleting a VM, whatever state it is in: off its hosts, then its root disk, then its rows.

Every part is idempotent: what is gone already is a success.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from ostler_common.errors import FailedPreconditionError

from ostler_control.database import session, transaction
from ostler_control.hosts.rows import is_proved_off, is_up, silent
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import Host, Operation, PowerState, Vm, VmState, Volume, VolumeState
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.scheduling import capacity
from ostler_control.userdata import vm_user_data
from ostler_control.vms import firmware_states, tpm
from ostler_control.vms.on_host import force_off, undefine
from ostler_control.vms.rows import disks_of, hosts_elsewhere, load, set_state
from ostler_control.volumes.create import delete_file
from ostler_control.volumes.delete import choose_host_to_delete
from ostler_control.volumes.files import check_mirrors_resolved

_MAY_RUN = (VmState.STARTING, VmState.RUNNING, VmState.STOPPING, VmState.MIGRATING)


@dataclass(frozen=True)
class DeleteInputs:
    """What `vm.delete` is given: every host that may know the VM, and its root disks."""

    host_ids: Sequence[str]
    root_ids: Sequence[str]


def delete(vm: Vm, user: str, force: bool = False, operation_id: str = "") -> Operation:
    """Records the operation that deletes a VM and its root disk; its data volumes are detached and stay.

    force: powers off a VM that runs. Raises FailedPreconditionError VM_RUNNING or HOST_SILENT.
    """
    vm = lock_row(vm)
    elsewhere = hosts_elsewhere(vm)
    if not force and (vm.state in _MAY_RUN or vm.power_state.is_executing or elsewhere):
        raise FailedPreconditionError(
            f"VM {vm.name} is {vm.state}{f' ({vm.attention})' if vm.attention else ''}; stop it first, or delete it "
            "with force, which powers it off",
            "VM_RUNNING",
        )
    hosts = [host for host in _hosts_of(vm, elsewhere) if not (host.removed or is_proved_off(host, vm.id))]
    for host in hosts:
        if not is_up(host):
            raise silent(host, f"and VM {vm.name} is defined there, or may be running")
    volumes = disks_of(vm.id)
    check_mirrors_resolved(volume for volume in volumes if not volume.root)
    root_ids = [volume.id for volume in volumes if volume.root]
    inputs = DeleteInputs([host.id for host in hosts], root_ids)
    operation = record_operation("vm.delete", vm, user, inputs, also=volumes, operation_id=operation_id)
    set_state(vm.id, VmState.DELETING, power_state=vm.power_state)
    Volume.update(state=VolumeState.DELETING, state_reason="").where(Volume.id.in_(root_ids)).execute()
    return operation


def _hosts_of(vm: Vm, elsewhere: Iterable[Host]) -> list[Host]:
    """Every host that may know the VM."""
    ids = {vm.host_id, vm.last_host_id, vm.destination_id, *(host.id for host in elsewhere)} - {None}
    return list(Host.select().where(Host.id.in_(ids)).order_by(Host.name))


@workflow("vm.delete")
def _delete(run: Run) -> None:
    inputs = run.read(DeleteInputs)
    with run.undoing() as undo:
        undo.push("record-failure", lambda: _record_failure(run, inputs, undo))
        for number, host_id in enumerate(inputs.host_ids):
            run.step(f"force-off-{number}", partial(force_off, run, host_id))
            run.step(f"undefine-{number}", partial(undefine, run, host_id))
        run.step("record-off", lambda: _record_off(run.resource_id))
        for number, volume_id in enumerate(inputs.root_ids):
            host_id = run.step(f"choose-{number}", partial(choose_host_to_delete, run, volume_id))
            if host_id:
                run.step(f"remove-{number}", partial(delete_file, run, host_id, volume_id))
        undo.clear()
        run.always("delete-rows", lambda: _delete_rows(run))  # only rows are left: from here on nothing is undone


def _record_off(vm_id: str) -> None:
    with transaction():
        vm = load(vm_id)
        capacity.release_destination(vm)
        capacity.release(vm)
        Vm.update(power_state=PowerState.ABSENT, last_host=None).where(Vm.id == vm_id).execute()


def _delete_rows(run: Run) -> None:
    with transaction():
        vm = Vm.get_or_none(Vm.id == run.resource_id)
        if vm is None:
            return
        for volume in disks_of(vm.id):
            if volume.root:
                delete_volume(volume, run.user, run.id)
            else:
                Volume.update(vm_id="", slot=-1).where(Volume.id == volume.id).execute()
        capacity.release_destination(vm)
        capacity.release(vm)
        vm_user_data.forget_all(vm.id)
        tpm.forget(vm.id)
        firmware_states.forget(vm.id)
        vm.delete_instance()


def _record_failure(run: Run, inputs: DeleteInputs, undo: Undo) -> None:
    """Shows what is left as failed, with its disks attached, so that it can be deleted again."""
    with session():
        power_state = load(run.resource_id).power_state
    with transaction():
        attention = f"not deleted: {undo.error}"
        set_state(run.resource_id, VmState.FAILED, power_state=power_state, attention=attention)
        reason = f"not deleted with its VM: {undo.error}"
        roots = Volume.id.in_(list(inputs.root_ids))
        Volume.update(state=VolumeState.FAILED, state_reason=reason).where(roots).execute()
