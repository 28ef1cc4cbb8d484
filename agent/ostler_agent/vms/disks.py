"""Volumes attached to VMs."""

from __future__ import annotations

from ostler_agent.hypervisors.base import Hypervisor, Paths, Work
from ostler_agent.preconditions import check_volume_file
from ostler_agent.spec import DiskSpec, VmInfo

DETACH_TIMEOUT_S = 60.0


def attach(driver: Hypervisor, paths: Paths, vm_id: str, disk: DiskSpec, work: Work) -> VmInfo:
    """Attaches a volume, live when the VM runs. Attached already is a success.

    Raises NotFoundError VM_NOT_FOUND, FailedPreconditionError VOLUME_MISSING, SLOT_TAKEN, VOLUME_ATTACHED, WRONG_KEY.
    """
    path = paths(disk.volume)
    check_volume_file(disk.volume.volume_id, path)
    work.progress("attaching")
    driver.attach(vm_id, disk, path)
    return driver.vm(vm_id)


def detach(driver: Hypervisor, vm_id: str, volume_id: str, key_id: str | None, work: Work) -> VmInfo:
    """Detaches a volume, live when the VM runs. Detached already is a success.

    Raises DeadlineExceededError DETACH_TIMEOUT, FailedPreconditionError DETACH_REFUSED.
    """
    work.progress("detaching")
    driver.detach(vm_id, volume_id, key_id, DETACH_TIMEOUT_S, work)
    return driver.vm(vm_id)
