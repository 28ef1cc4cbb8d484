"""Changing a VM's name, description, placement rules and details, and what its guest gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peewee import IntegrityError

from ostler_control import events
from ostler_control.catalog.names import check_name
from ostler_control.database import transaction
from ostler_control.keys import Keyring
from ostler_control.models import AffinityGroup, Vm, VmState
from ostler_control.operations import lock_row
from ostler_control.scheduling import affinity
from ostler_control.userdata import vm_user_data
from ostler_control.userdata.vm_user_data import Given
from ostler_control.vms import descriptions, details, driver_details
from ostler_control.vms.rows import wrong_state
from ostler_control.vms.wanted import vm_exists


def update(
    vm: Vm,
    actor: str,
    drs_skip: bool | None = None,
    groups: Sequence[AffinityGroup] | None = None,
    new_details: Mapping[str, str] | None = None,
    given: Given | None = None,
    keys: Keyring | None = None,
    name: str | None = None,
    description: str | None = None,
) -> Vm:
    """Changes what is not None. Nothing moves: DRS repairs a rule that is broken now, or an operator moves the VM.

    given: what the guest of a stopped VM gets at its next start, which needs keys. Raises InvalidArgumentError
    INVALID_NAME, AlreadyExistsError VM_EXISTS, FailedPreconditionError OTHER_ACCOUNT, VM_STATE, AbortedError
    RESOURCE_BUSY, and what `descriptions.replace`, `details.replace`, `driver_details.check` and
    `vm_user_data.assign` raise.
    """
    changes = []
    with transaction():
        if given is not None and keys is not None:
            vm = lock_row(vm)
            if vm.state is not VmState.STOPPED:
                raise wrong_state(vm, "stopped")
            vm_user_data.assign(vm, given, vm.template, keys)
            changes.append("user data, at its next start")
        if name is not None:
            changes.append(_rename(vm, name))
        if description is not None:
            descriptions.replace(vm, description)
            changes.append("description")
        if drs_skip is not None:
            Vm.update(drs_skip=drs_skip).where(Vm.id == vm.id).execute()
            changes.append("opted out of DRS" if drs_skip else "no longer opted out of DRS")
        if groups is not None:
            affinity.put(vm, groups)
            changes.append(f"affinity groups: {', '.join(group.name for group in groups) or 'none'}")
        if new_details is not None:
            skipped = details.replace(vm, new_details)
            if host_id := vm.host_id or vm.last_host_id:
                driver_details.check(vm, host_id)
            changes.append(f"details (skipped: {', '.join(skipped)})" if skipped else "details")
        outcome = events.Outcome.SUCCEEDED
        events.record("vm.update", outcome, actor, "vm", vm.id, vm.name, "; ".join(changes), account_id=vm.account_id)
    return Vm.get_by_id(vm.id)


def _rename(vm: Vm, name: str) -> str:
    """Hosts know a VM by its id, so a running VM can have another name. Returns what has changed, for people."""
    check_name("name", name)
    try:
        with transaction():
            Vm.update(name=name).where(Vm.id == vm.id).execute()
    except IntegrityError:
        raise vm_exists(vm.account, name) from None
    return f"renamed to {name}"
