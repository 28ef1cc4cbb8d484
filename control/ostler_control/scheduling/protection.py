"""Which VMs restart by themselves after a failure of their host: the queries."""

from __future__ import annotations

from peewee import JOIN, ColumnBase, ModelSelect, Value, fn

from ostler_control.models import OfferingPriority, Priority, Vm, VmPriority


def in_force() -> ColumnBase:
    """The priority in force, in a query that joins both tables."""
    return fn.COALESCE(VmPriority.priority, OfferingPriority.priority, Value(Priority.OFF.value, converter=False))


def is_protected() -> ColumnBase:
    """The condition on such a query that the VM restarts by itself."""
    condition: ColumnBase = in_force() != Value(Priority.OFF.value, converter=False)
    return condition


def with_priority(query: ModelSelect[Vm]) -> ModelSelect[Vm]:
    """Joins both tables to a select of VMs."""
    query = query.join(VmPriority, JOIN.LEFT_OUTER, on=(VmPriority.vm == Vm.id)).switch(Vm)
    own = OfferingPriority.service_offering == Vm.service_offering
    return query.join(OfferingPriority, JOIN.LEFT_OUTER, on=own).switch(Vm)
