"""Changing a VM's placement rules."""

from __future__ import annotations

from collections.abc import Sequence

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.models import AffinityGroup, Vm
from ostler_control.scheduling import affinity


def update(vm: Vm, actor: str, drs_skip: bool | None = None, groups: Sequence[AffinityGroup] | None = None) -> Vm:
    """Changes what is not None. Nothing moves: DRS repairs a rule that is broken now, or an operator moves the VM.

    Raises FailedPreconditionError (OTHER_ACCOUNT).
    """
    changes = []
    with transaction():
        if drs_skip is not None:
            Vm.update(drs_skip=drs_skip).where(Vm.id == vm.id).execute()
            changes.append("DRS leaves it where it is" if drs_skip else "DRS may move it")
        if groups is not None:
            affinity.put(vm, groups)
            changes.append(f"affinity groups: {', '.join(group.name for group in groups) or 'none'}")
        outcome = events.Outcome.SUCCEEDED
        events.record("vm.update", outcome, actor, "vm", vm.id, vm.name, "; ".join(changes), account_id=vm.account_id)
    return Vm.get_by_id(vm.id)
