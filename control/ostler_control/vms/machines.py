"""Machine types: a VM keeps the one that it first started with, so that its guest sees the same devices after its host
was upgraded, until somebody upgrades the VM, too."""

from __future__ import annotations

from collections.abc import Collection

from ostler_control import events
from ostler_control.database import joined, session, transaction
from ostler_control.models import Operation, Vm, VmMachine, VmState, tuples
from ostler_control.operations import lock_row
from ostler_control.vms.rows import wrong_state

MAX_LENGTH = 64


def of_vms(vm_ids: Collection[str]) -> dict[str, str]:
    """By VM; those that have none are left out."""
    if not vm_ids:
        return {}
    query = VmMachine.select(VmMachine.vm, VmMachine.machine).where(VmMachine.vm.in_(list(vm_ids)))
    return dict(tuples(query, tuple[str, str]))


def of_vm(vm_id: str) -> str:
    """The machine type that a VM keeps, "" for none."""
    with session():
        return of_vms([vm_id]).get(vm_id, "")


def at_start_of(operation_id: str, vm_id: str) -> str:
    """What `of_vm` said when an operation was recorded, as far as a VM has only got one since.

    A start that is repeated after a crash must send its host the same as before: what it has recorded does not count.
    """
    with session():
        begun = Operation.get_by_id(operation_id).create_time
        found = VmMachine.get_or_none((VmMachine.vm == vm_id) & (VmMachine.create_time < begun))
        return found.machine if found is not None else ""


def keep(vm_id: str, machine: str) -> None:
    """Records the machine type that a VM has started with, unless it keeps one already."""
    if not 0 < len(machine) <= MAX_LENGTH or not machine.isprintable():  # a host's own words
        return
    with joined():
        VmMachine(vm=vm_id, machine=machine).insert_unless_taken()


def copy(source: Vm, target: Vm) -> None:
    """Has a clone keep the machine type of its source: within the caller's transaction."""
    keep(target.id, of_vm(source.id))


def upgrade(vm: Vm, user: str) -> Vm:
    """Has a stopped VM forget its machine type: it gets the newest of the host where it next starts.

    Raises FailedPreconditionError VM_STATE.
    """
    with transaction():
        vm = lock_row(vm)
        if vm.state is not VmState.STOPPED:
            raise wrong_state(vm, "stopped")
        kept = of_vm(vm.id)
        VmMachine.delete().where(VmMachine.vm == vm.id).execute()
        events.record(
            "vm.upgrade-machine",
            events.Outcome.SUCCEEDED,
            user,
            "vm",
            vm.id,
            vm.name,
            f"it had {kept}" if kept else "",
            account_id=vm.account_id,
        )
    return vm
