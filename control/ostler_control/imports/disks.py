"""What each disk of an imported VM becomes: offering, pool, size, encryption. Within a session."""

from __future__ import annotations

from dataclasses import dataclass

from ostler_common.errors import bad_field

from ostler_control.imports.mapping import disk_size_bytes
from ostler_control.imports.wanted import Wanted
from ostler_control.models import DiskOffering, Pool
from ostler_control.vmware.inventory import Disk, SourceVm


@dataclass(frozen=True)
class DiskPlan:
    """A disk under way. offering: None for the first disk, which follows the service offering; pool: None for a chosen
    one; needed_bytes: space that the volume takes at first."""

    disk: Disk
    offering: DiskOffering | None
    pool: Pool | None
    encrypted: bool
    size_bytes: int
    needed_bytes: int
    format: str = "qcow2"
    provisioning: str = "thin"


def plan_disks(wanted: Wanted, vm: SourceVm) -> tuple[DiskPlan, ...]:
    """One plan per disk, in the VM's order; the first disk is the one that the VM boots from.

    Raises InvalidArgumentError: a choice for a disk that the VM does not have, no offering for a further disk, or one
    that is smaller than the disk.
    """
    unknown = wanted.disks.keys() - {disk.key for disk in vm.disks}
    if unknown:
        known = ", ".join(f"{disk.key} ({disk.label})" for disk in vm.disks)
        raise bad_field("spec.disks", f"the VM has no disk {min(unknown)}; it has {known}", "NO_SUCH_DISK")
    return tuple(_plan(wanted, vm, disk, boot=position == 0) for position, disk in enumerate(vm.disks))


def _plan(wanted: Wanted, vm: SourceVm, disk: Disk, *, boot: bool) -> DiskPlan:
    choice = wanted.disks.get(disk.key)
    pool = choice.pool if choice is not None and choice.pool is not None else wanted.pool
    size_bytes = disk_size_bytes(disk.capacity_bytes)
    needed_bytes = min(size_bytes, vm.used_bytes) if vm.used_bytes else size_bytes
    offering = choice.offering if choice is not None else None
    if boot:
        if offering is not None:
            raise bad_field(
                "spec.disks", f"{disk.label} is the first disk, which the service offering decides on", "INVALID_DISK"
            )
        return DiskPlan(disk, None, pool, bool(wanted.offering.encrypt_root), size_bytes, needed_bytes)
    offering = offering or wanted.disk_offering
    if offering is None:
        raise bad_field("spec.disk_offering", f"is required for {disk.label}", "REQUIRED")
    if offering.size_bytes and offering.size_bytes < size_bytes:
        raise bad_field(
            "spec.disk_offering",
            f"{disk.label} has {size_bytes >> 20} MiB, more than the disk offering {offering.name}",
            "INVALID_SIZE",
        )
    whole_bytes = offering.size_bytes or size_bytes
    return DiskPlan(
        disk=disk,
        offering=offering,
        pool=pool,
        encrypted=bool(offering.encrypt),
        size_bytes=whole_bytes,
        needed_bytes=whole_bytes if offering.provisioning == "thick" else needed_bytes,
        format=offering.format,
        provisioning=offering.provisioning,
    )
