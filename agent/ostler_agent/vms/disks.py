"""Attaches and detaches volumes."""

from __future__ import annotations

from ostler_common.errors import FailedPreconditionError
from ostler_common.hypervisors import Function
from ostler_common.io_limits import IoLimits

from ostler_agent.hypervisors.base import DiskLimits, HotPlug, Hypervisor, Paths, Progress, Stated, need
from ostler_agent.preconditions import check_volume
from ostler_agent.spec import DiskSpec, VmInfo

DETACH_TIMEOUT_S = 60.0


def attach(driver: Hypervisor, paths: Paths, vm_id: str, disk: DiskSpec, progress: Progress) -> VmInfo:
    """Attaches a volume, live if the VM is running. Idempotent.

    Without hot-plug, a stopped VM gets its disks from the spec of its next start. Raises NotFoundError VM_NOT_FOUND;
    what `check_volume` raises; FailedPreconditionError SLOT_TAKEN, VOLUME_ATTACHED, WRONG_KEY, FUNCTION_NOT_SUPPORTED,
    FORMAT_NOT_SUPPORTED.
    """
    check_disk(driver, disk)
    path = paths(disk.volume)
    check_volume(disk.volume, path)
    if plug := _hot_plug_or_none(driver, vm_id):
        progress.report("attaching")
        plug.attach(vm_id, disk, path)
    return driver.vm(vm_id)


def detach(driver: Hypervisor, vm_id: str, volume_id: str, key_id: str | None, progress: Progress) -> VmInfo:
    """Detaches a volume, live if the VM is running. Idempotent.

    Raises DeadlineExceededError DETACH_TIMEOUT; FailedPreconditionError DETACH_REFUSED, FUNCTION_NOT_SUPPORTED.
    """
    if plug := _hot_plug_or_none(driver, vm_id):
        progress.report("detaching")
        plug.detach(vm_id, volume_id, key_id, DETACH_TIMEOUT_S, progress)
    return driver.vm(vm_id)


def limit(driver: Hypervisor, vm_id: str, volume_id: str, limits: IoLimits, progress: Progress) -> VmInfo:
    """Replaces the I/O limits of a running VM's disk. Idempotent.

    Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED, VM_NOT_RUNNING; NotFoundError VOLUME_NOT_ATTACHED.
    """
    need(driver, Function.IO_LIMITS)
    assert isinstance(driver, DiskLimits)
    progress.report("limiting the disk's I/O")
    driver.limit_disk(vm_id, volume_id, limits)
    return driver.vm(vm_id)


def check_disk(driver: Stated, disk: DiskSpec) -> None:
    """Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED, FORMAT_NOT_SUPPORTED."""
    if disk.volume.key:
        need(driver, Function.VOLUME_ENCRYPTION)
    if disk.limits:
        need(driver, Function.IO_LIMITS)
    if disk.volume.format not in driver.info.template_formats:
        raise FailedPreconditionError(
            f"hypervisors of type {driver.info.type} do not support disks of format {disk.volume.format}, only "
            f"{', '.join(sorted(driver.info.template_formats))}",
            "FORMAT_NOT_SUPPORTED",
            {"volume": disk.volume.volume_id, "hypervisor_type": driver.info.type},
        )


def _hot_plug_or_none(driver: Hypervisor, vm_id: str) -> HotPlug | None:
    """None if hot-plug is not needed: the VM is stopped. Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED."""
    if Function.HOT_PLUG in driver.info.functions or driver.running(vm_id):
        need(driver, Function.HOT_PLUG)
        assert isinstance(driver, HotPlug)
        return driver
    return None
