"""Sizes of VMs: what an offering or a VM has, and the most that a VM may get while it runs."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ostler_control.models import OfferingMaximum, ServiceOffering, Vm, VmMaximum, tuples


class Size(NamedTuple):
    """CPUs, and memory in bytes."""

    cpus: int
    memory_bytes: int


NO_SIZE = Size(0, 0)


def size_of(row: ServiceOffering | Vm) -> Size:
    """What it has."""
    return Size(row.cpus, row.memory_bytes)


def set_maximum(offering: ServiceOffering, maximum: Size) -> None:
    """Gives a new offering a maximum that was checked, within the caller's transaction."""
    if maximum != size_of(offering):
        OfferingMaximum.create(service_offering=offering, cpus=maximum.cpus, memory_bytes=maximum.memory_bytes)


def maximums_of_offerings(offering_ids: Collection[str]) -> dict[str, Size]:
    """By offering; those whose VMs cannot grow are left out."""
    columns = (OfferingMaximum.service_offering, OfferingMaximum.cpus, OfferingMaximum.memory_bytes)
    query = OfferingMaximum.select(*columns).where(OfferingMaximum.service_offering.in_(list(offering_ids)))
    return {row_id: Size(cpus, size) for row_id, cpus, size in tuples(query, tuple[str, int, int])}


def maximums_of_vms(vm_ids: Collection[str]) -> dict[str, Size]:
    """By VM; those that cannot grow while they run are left out."""
    if not vm_ids:
        return {}
    query = VmMaximum.select(VmMaximum.vm, VmMaximum.cpus, VmMaximum.memory_bytes)
    rows = tuples(query.where(VmMaximum.vm.in_(list(vm_ids))), tuple[str, int, int])
    return {row_id: Size(cpus, size) for row_id, cpus, size in rows}


def maximum_of(vm: Vm) -> Size:
    """What the VM may get while it runs."""
    found = maximums_of_vms([vm.id]).get(vm.id, NO_SIZE)
    return Size(max(found.cpus, vm.cpus), max(found.memory_bytes, vm.memory_bytes))


def set_maximum_of_vm(vm: Vm, maximum: Size) -> None:
    """Gives a VM the maximum that its guest had when its memory was saved, within the caller's transaction."""
    VmMaximum.delete().where(VmMaximum.vm == vm.id).execute()
    if maximum != size_of(vm):
        VmMaximum.create(vm=vm.id, cpus=maximum.cpus, memory_bytes=maximum.memory_bytes)


def renew_maximum(vm: Vm) -> None:
    """Gives a VM that is about to start the maximum of its offering, within the caller's transaction."""
    VmMaximum.delete().where(VmMaximum.vm == vm.id).execute()
    give_maximum(vm)


def give_maximum(vm: Vm) -> None:
    """The same for a new VM."""
    found = maximums_of_offerings([vm.service_offering_id]).get(vm.service_offering_id)
    if found is not None:
        VmMaximum.create(vm=vm.id, cpus=found.cpus, memory_bytes=found.memory_bytes)
