"""Which VMs restart by themselves, and in which order."""

from __future__ import annotations

from collections.abc import Collection

from peewee import fn

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.models import (
    LateStart,
    OfferingPriority,
    Priority,
    ServiceOffering,
    Vm,
    VmPriority,
    VmRestart,
    tuples,
)
from ostler_control.scheduling.protection import in_force, is_protected, with_priority


def set_vm(vm: Vm, priority: Priority | None, actor: str) -> None:
    """Sets a VM's own priority; None: its service offering's counts again. With OFF a restart that waits is dropped."""
    with transaction():
        VmPriority.delete().where(VmPriority.vm == vm.id).execute()
        if priority is not None:
            VmPriority.create(vm=vm, priority=priority)
        now_in_force = of_vms([vm.id])[vm.id]
        if now_in_force is Priority.OFF:
            VmRestart.delete().where(VmRestart.vm == vm.id).execute()
        else:
            VmRestart.update(priority=now_in_force).where(VmRestart.vm == vm.id).execute()
        text = f"VM {vm.name}: priority {priority or f'of its service offering ({now_in_force})'}"
        events.record(
            "vm.ha", events.Outcome.SUCCEEDED, actor, "vm", vm.id, vm.name, text, account_id=str(vm.account_id)
        )


def set_offering(offering: ServiceOffering, priority: Priority | None, actor: str) -> None:
    """Sets the priority of an offering's VMs that have none of their own; None or OFF: they are not protected."""
    with transaction():
        OfferingPriority.delete().where(OfferingPriority.service_offering == offering.id).execute()
        if priority not in (None, Priority.OFF):
            OfferingPriority.create(service_offering=offering, priority=priority)
        text = f"service offering {offering.name}: priority {priority or Priority.OFF}"
        events.done("offering.ha", actor, offering, text)


def of_vms(vm_ids: Collection[str]) -> dict[str, Priority]:
    """The priorities in force, by VM."""
    query = with_priority(Vm.select(Vm.id, in_force())).where(Vm.id.in_(sorted(vm_ids)))
    return {vm_id: Priority(word) for vm_id, word in tuples(query, tuple[str, str])}


def protected_by_host() -> dict[str, int]:
    """How many VMs that restart by themselves are placed on each host."""
    query = with_priority(Vm.select(Vm.host, fn.COUNT(Vm.id))).where(Vm.host.is_null(False), is_protected())
    return dict(tuples(query.group_by(Vm.host), tuple[str, int]))


def late_by_host() -> dict[str, int]:
    """How many VMs that restart by themselves each host may have started later than the proof that it was off."""
    query = with_priority(Vm.select(LateStart.host, fn.COUNT(Vm.id.distinct()))).where(is_protected())
    query = query.join(LateStart, on=LateStart.vm == Vm.id)
    return dict(tuples(query.group_by(LateStart.host), tuple[str, int]))
