"""Deleting a VM, whatever state it is in: off its hosts, then its root disk, then its rows.

Every part may be repeated: what is gone already is a success.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ostler_common.errors import FailedPreconditionError

from ostler_control.database import session, transaction
from ostler_control.hosts.rows import is_up, silent
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import Host, Operation, Vm, Volume
from ostler_control.operations import Run, Undo, lock_row, record_operation, workflow
from ostler_control.scheduling import capacity
from ostler_control.vms.create import force_off, forget_on
from ostler_control.vms.rows import EXECUTING, disks_of, load, set_state
from ostler_control.volumes.create import delete_file
from ostler_control.volumes.delete import choose_host_to_delete
from ostler_control.volumes.files import check_mirrors_resolved


def delete(vm: Any, user: str, force: bool = False) -> Operation:
    """Records the operation that deletes a VM and its root disk; its data volumes are detached and stay.

    force: pull the plug of one that runs. Raises FailedPreconditionError VM_RUNNING or HOST_SILENT.
    """
    vm = lock_row(vm)
    running = vm.state not in ("stopped", "failed", "creating", "deleting") or vm.power_state in EXECUTING
    if running and not force:
        raise FailedPreconditionError(
            f"VM {vm.name} is {vm.state}; stop it first, or delete it with force, which pulls its plug", "VM_RUNNING"
        )
    hosts = [host for host in _hosts_of(vm) if not host.removed]
    for host in hosts:
        if not is_up(host):
            raise silent(host, f"and VM {vm.name} is defined there, or may be running")
    volumes = disks_of(vm.id)
    check_mirrors_resolved(volume for volume in volumes if not volume.root)
    inputs = {
        "host_ids": [host.id for host in hosts],
        "root_ids": [volume.id for volume in volumes if volume.root],
    }
    operation = record_operation("vm.delete", vm, user, inputs, also=volumes)
    set_state(vm.id, "deleting", power_state=vm.power_state)
    Volume.update(state="deleting", state_reason="").where(Volume.id.in_(inputs["root_ids"])).execute()
    return operation


def _hosts_of(vm: Any) -> list[Any]:
    """Every host that may know the VM."""
    ids = {vm.host_id, vm.last_host_id, vm.destination_id} - {None}
    return list(Host.select().where(Host.id.in_(ids)).order_by(Host.name))


@workflow("vm.delete")
def _delete(run: Run) -> None:
    with run.undoing() as undo:
        undo.push("settle", lambda: _settle(run, undo))
        for number, host_id in enumerate(run.inputs["host_ids"]):
            run.step(f"plug-{number}", partial(force_off, run, host_id))
            run.step(f"forget-{number}", partial(forget_on, run, host_id))
        run.step("off", lambda: _off(run.resource_id))
        for number, volume_id in enumerate(run.inputs["root_ids"]):
            host_id = run.step(f"choose-{number}", partial(choose_host_to_delete, run, volume_id))
            if host_id:
                run.step(f"remove-{number}", partial(delete_file, run, host_id, volume_id))
        undo.clear()
        run.always("rows", lambda: _delete_rows(run))  # nothing is left but rows: there is no way back any more


def _off(vm_id: str) -> None:
    with transaction():
        vm = load(vm_id)
        capacity.release_destination(vm)
        capacity.release(vm)
        Vm.update(power_state="absent", last_host=None).where(Vm.id == vm_id).execute()


def _delete_rows(run: Run) -> None:
    with transaction():
        vm: Any = Vm.get_or_none(Vm.id == run.resource_id)
        if vm is None:
            return
        for volume in disks_of(vm.id):
            if volume.root:
                delete_volume(volume, run.user)
            else:
                Volume.update(vm_id="", slot=-1).where(Volume.id == volume.id).execute()
        capacity.release_destination(vm)
        capacity.release(vm)
        vm.delete_instance()


def _settle(run: Run, undo: Undo) -> None:
    """What is left is shown as failed, with its disks attached, to be deleted again."""
    with session():
        power_state = load(run.resource_id).power_state
    with transaction():
        set_state(run.resource_id, "failed", power_state=power_state, attention=f"not deleted: {undo.error}")
        reason = f"not deleted with its VM: {undo.error}"
        roots = Volume.id.in_(run.inputs["root_ids"])
        Volume.update(state="failed", state_reason=reason).where(roots).execute()
