"""Definitions and power."""

from __future__ import annotations

from typing import Any

import libvirt
from ostler_common.errors import FailedPreconditionError, NotFoundError

from ostler_agent.hypervisors.base import Paths
from ostler_agent.hypervisors.libvirt import inventory
from ostler_agent.hypervisors.libvirt.errors import is_code, translated
from ostler_agent.hypervisors.libvirt.host import choose_domain_type, disk_file, keys_of
from ostler_agent.hypervisors.libvirt.locks import VmLocks
from ostler_agent.hypervisors.libvirt.secrets import Secrets
from ostler_agent.hypervisors.libvirt.xml.domain import domain_xml
from ostler_agent.spec import VmSpec

_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


def get(connection: Any, vm_id: str) -> Any:
    """The domain. Raises NotFoundError VM_NOT_FOUND."""
    with translated(f"looking for VM {vm_id}"):
        domain = inventory.find(connection, vm_id)
    if domain is None:
        raise NotFoundError(f"VM {vm_id} is not on this host", "VM_NOT_FOUND", {"vm": vm_id})
    return domain


def get_active(connection: Any, vm_id: str) -> Any:
    """The domain, executing. Raises NotFoundError VM_NOT_FOUND, FailedPreconditionError VM_NOT_RUNNING."""
    domain = get(connection, vm_id)
    with translated(f"looking at VM {vm_id}"):
        if not inventory.is_active(domain):
            raise FailedPreconditionError(f"VM {vm_id} does not run (start it first)", "VM_NOT_RUNNING", {"vm": vm_id})
    return domain


def define(connection: Any, spec: VmSpec, paths: Paths, domain_type: str) -> Any:
    """Writes the definition. Raises FailedPreconditionError VM_RUNNING. The caller holds the VM's lock."""
    with translated(f"defining VM {spec.vm_id}"):
        old = inventory.find(connection, spec.vm_id)
        if old is not None and inventory.is_active(old):
            raise _running(spec.vm_id, "stop it before its definition is replaced")
        files = {disk.volume.volume_id: disk_file(paths(disk.volume)) for disk in spec.disks}
        # libvirt checks the XML against its schema too: a mistake shows here and not at the first start.
        return connection.defineXMLFlags(
            domain_xml(spec, files, choose_domain_type(connection, domain_type)),
            libvirt.VIR_DOMAIN_DEFINE_VALIDATE,
        )


def start(connection: Any, secrets: Secrets, spec: VmSpec, paths: Paths, domain_type: str) -> None:
    """Starts the VM with its keys in place. The caller holds the VM's lock."""
    with translated(f"looking for VM {spec.vm_id}"):
        found = inventory.find(connection, spec.vm_id)
        if found is not None and inventory.is_active(found):
            return
    # One that died unseen may have left keys that this start does not need.
    secrets.drop(spec.vm_id)
    secrets.hold(spec.vm_id, keys_of(spec))
    try:
        domain = define(connection, spec, paths, domain_type)
        with translated(f"starting VM {spec.vm_id}"):
            domain.create()
    except BaseException:
        secrets.drop(spec.vm_id)
        raise


def shut_down(connection: Any, vm_id: str) -> None:
    """Presses the power button."""
    domain = get(connection, vm_id)
    try:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
            return  # it stopped meanwhile, or is paused: the caller's wait finds out
        with translated(f"asking VM {vm_id} to shut down"):
            raise


def power_off(connection: Any, locks: VmLocks, secrets: Secrets, vm_id: str) -> None:
    """Pulls the plug."""
    with translated(f"stopping VM {vm_id}"):
        domain = inventory.find(connection, vm_id)
        if domain is not None and inventory.is_active(domain):
            try:
                domain.destroy()
            except libvirt.libvirtError as error:
                if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                    raise
    forget_keys(connection, locks, secrets, vm_id)


def reboot(connection: Any, vm_id: str, hard: bool) -> None:
    """Asks the guest, or resets it."""
    domain = get_active(connection, vm_id)
    with translated(f"rebooting VM {vm_id}"):
        if hard:
            domain.reset()
        else:
            domain.reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)


def delete(connection: Any, locks: VmLocks, secrets: Secrets, vm_id: str) -> None:
    """Forgets a stopped VM."""
    with locks.hold(vm_id), translated(f"deleting VM {vm_id}"):
        domain = inventory.find(connection, vm_id)
        if domain is not None:
            if inventory.is_active(domain):
                raise _running(vm_id, "stop it before it is deleted")
            try:
                domain.undefineFlags(_UNDEFINE)
            except libvirt.libvirtError as error:
                if not is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                    raise
        secrets.drop(vm_id)


def forget_keys(connection: Any, locks: VmLocks, secrets: Secrets, vm_id: str) -> None:
    """Takes a VM's keys away unless it executes (again)."""
    with locks.hold(vm_id), translated(f"removing the keys of VM {vm_id}"):
        domain = inventory.find(connection, vm_id)
        if domain is None or not inventory.is_active(domain):
            secrets.drop(vm_id)


def _running(vm_id: str, advice: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"VM {vm_id} runs ({advice})", "VM_RUNNING", {"vm": vm_id})
