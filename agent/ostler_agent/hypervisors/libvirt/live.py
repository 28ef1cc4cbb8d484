"""What copies and mirrors of running disks share: looking at the VM, also while libvirtd is away for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import libvirt
from ostler_common.errors import AbortedError, FailedPreconditionError, NotFoundError, UnavailableError

from ostler_agent.hypervisors.libvirt import inventory
from ostler_agent.hypervisors.libvirt.errors import is_code, translated
from ostler_agent.hypervisors.libvirt.locks import VmLocks
from ostler_agent.hypervisors.libvirt.secrets import Secrets
from ostler_agent.hypervisors.libvirt.xml.disks import AttachedDisk

POLL_INTERVAL_S = 0.1
RETRY_TIMEOUT_S = 60  # how long libvirtd may be away in the middle; a restart takes seconds

Connect = Callable[[], Any]
T = TypeVar("T")


def retry_while_unavailable(ask: Callable[[], T]) -> T:
    """The answer; while libvirtd is away it is asked again, for only libvirtd knows. Raises UnavailableError."""
    deadline = time.monotonic() + RETRY_TIMEOUT_S
    while True:
        try:
            return ask()
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_INTERVAL_S)


def find_active(connect: Connect, vm_id: str) -> Any:
    """The executing domain. Raises FailedPreconditionError VM_STOPPED."""
    with translated(f"looking at VM {vm_id}"):
        domain = inventory.find(connect(), vm_id)
        if domain is None or not inventory.is_active(domain):
            raise stopped(vm_id)
    return domain


def remove_key(connect: Connect, locks: VmLocks, secrets: Secrets, vm_id: str, key_id: str | None) -> None:
    """Takes a key away unless a disk of the executing VM is open with it."""
    if key_id is None:
        return
    with locks.hold(vm_id), translated(f"removing key {key_id} of VM {vm_id}"):
        domain = inventory.find(connect(), vm_id)
        attached = inventory.active_disks(domain) if domain is not None and inventory.is_active(domain) else []
        if not any(key_id in disk.key_ids for disk in attached):
            secrets.drop(vm_id, [key_id])


def stopped(vm_id: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"VM {vm_id} stopped meanwhile", "VM_STOPPED", {"vm": vm_id})


def find_disk(domain: Any, vm_id: str, volume_id: str) -> AttachedDisk:
    """Raises NotFoundError VOLUME_NOT_ATTACHED."""
    for disk in inventory.active_disks(domain):
        if disk.volume_id == volume_id:
            return disk
    raise NotFoundError(f"volume {volume_id} is not attached to VM {vm_id}", "VOLUME_NOT_ATTACHED")


def refuse_busy(domain: Any, vm_id: str, disks: Iterable[AttachedDisk]) -> None:
    """Raises AbortedError DISK_BUSY while one of the disks is mirrored, any of the VM's copied, or the VM moving."""
    mirrored = next((disk for disk in disks if disk.mirror), None)
    if mirrored:
        raise _busy(vm_id, f"volume {mirrored.volume_id} of VM {vm_id} is being mirrored")
    if is_copying(domain):
        raise _busy(vm_id, f"a volume of VM {vm_id} is being copied")
    if inventory.is_migrating_out(domain):
        raise _busy(vm_id, f"VM {vm_id} is moving to another host")


def is_copying(domain: Any) -> bool:
    """Whether a backup is under way."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_SUPPORT):
            return False  # stopped meanwhile, or a driver without jobs
        raise
    return bool(
        stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE
        and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP
    )


def _busy(vm_id: str, what: str) -> AbortedError:
    return AbortedError(f"{what} (try again when that is over, or cancel it)", "DISK_BUSY", {"vm": vm_id})
