"""Shared by copies, mirrors and migrations of running VMs: inspects a VM, also across a restart of libvirtd."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import libvirt
from ostler_common.errors import AbortedError, FailedPreconditionError, NotFoundError, UnavailableError

from ostler_agent.hypervisors.libvirt import inventory
from ostler_agent.hypervisors.libvirt.errors import is_code, translated
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml.disks import AttachedDisk

POLL_INTERVAL_S = 0.1
RETRY_TIMEOUT_S = 60.0  # how long libvirtd may be away; a restart takes seconds

T = TypeVar("T")


def retry_while_unavailable(call: Callable[[], T], timeout_s: float = RETRY_TIMEOUT_S) -> T:
    """Repeats a call until libvirtd answers: only it knows the outcome. Raises UnavailableError at the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_INTERVAL_S)


def find_active(session: Session, vm_id: str) -> Any:
    """Returns the domain of a running VM. Raises FailedPreconditionError VM_STOPPED."""
    with translated(f"inspecting VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        if domain is None or not inventory.is_active(domain):
            raise stopped(vm_id)
    return domain


def remove_key(session: Session, vm_id: str, key_id: str | None) -> None:
    """Removes a key unless a disk of the running VM is open with it."""
    if key_id is None:
        return
    with session.locks.hold(vm_id), translated(f"removing key {key_id} of VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        attached = inventory.active_disks(domain) if domain is not None and inventory.is_active(domain) else []
        if not any(key_id in disk.key_ids for disk in attached):
            session.secrets.remove(vm_id, [key_id])


def stopped(vm_id: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"VM {vm_id} has stopped", "VM_STOPPED", {"vm": vm_id})


def find_disk(domain: Any, vm_id: str, volume_id: str) -> AttachedDisk:
    """Raises NotFoundError VOLUME_NOT_ATTACHED."""
    for disk in inventory.active_disks(domain):
        if disk.volume_id == volume_id:
            return disk
    raise NotFoundError(f"volume {volume_id} is not attached to VM {vm_id}", "VOLUME_NOT_ATTACHED")


def refuse_busy(domain: Any, vm_id: str, disks: Iterable[AttachedDisk]) -> None:
    """Raises AbortedError DISK_BUSY if a given disk is mirrored, any disk of the VM is copied, or the VM migrates."""
    mirrored = next((disk for disk in disks if disk.mirror), None)
    if mirrored:
        raise _busy(vm_id, f"volume {mirrored.volume_id} of VM {vm_id} is being mirrored")
    if is_copying(domain):
        raise _busy(vm_id, f"a volume of VM {vm_id} is being copied")
    if inventory.is_migrating_out(domain):
        raise _busy(vm_id, f"VM {vm_id} is migrating to another host")


def is_copying(domain: Any) -> bool:
    """Whether a backup job is running."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_SUPPORT):
            return False  # the VM has stopped, or the driver has no jobs
        raise
    return bool(
        stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE
        and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP
    )


def _busy(vm_id: str, what: str) -> AbortedError:
    return AbortedError(f"{what} (wait until that ends, or cancel it)", "DISK_BUSY", {"vm": vm_id})
