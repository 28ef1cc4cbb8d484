"""Changing a VM's placement rules and details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.models import AffinityGroup, Vm
from ostler_control.scheduling import affinity
from ostler_control.vms import details


def update(
    vm: Vm,
    actor: str,
    drs_skip: bool | None = None,
    groups: Sequence[AffinityGroup] | None = None,
    new_details: Mapping[str, str] | None = None,
) -> Vm:
    """Changes what is not None. Nothing moves: DRS repairs a rule that is broken now, or an operator moves the VM.

    Raises FailedPreconditionError (OTHER_ACCOUNT), and what `details.replace` raises.
    """
    changes = []
    with transaction():
        if drs_skip is not None:
            Vm.update(drs_skip=drs_skip).where(Vm.id == vm.id).execute()
            changes.append("DRS leaves it where it is" if drs_skip else "DRS may move it")
        if groups is not None:
            affinity.put(vm, groups)
            changes.append(f"affinity groups: {', '.join(group.name for group in groups) or 'none'}")
        if new_details is not None:
            skipped = details.replace(vm, new_details)
            changes.append(f"details (skipped: {', '.join(skipped)})" if skipped else "details")
        outcome = events.Outcome.SUCCEEDED
        events.record("vm.update", outcome, actor, "vm", vm.id, vm.name, "; ".join(changes), account_id=vm.account_id)
    return Vm.get_by_id(vm.id)
