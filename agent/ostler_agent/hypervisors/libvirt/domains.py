"""VM definitions and power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
from ostler_common.errors import FailedPreconditionError, NotFoundError

from ostler_agent.hypervisors.base import Paths
from ostler_agent.hypervisors.libvirt import baseline, filters, inventory
from ostler_agent.hypervisors.libvirt.errors import is_code, translated
from ostler_agent.hypervisors.libvirt.host import check_machine, choose_domain_type, disk_file
from ostler_agent.hypervisors.libvirt.resets import Resets
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml import metadata
from ostler_agent.hypervisors.libvirt.xml.domain import domain_xml
from ostler_agent.spec import VmSpec

_HOLD_MS = 100  # how long keys are held down
_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_TPM
)
_BAD_XML = (
    libvirt.VIR_ERR_XML_ERROR,
    libvirt.VIR_ERR_XML_DETAIL,
    libvirt.VIR_ERR_XML_INVALID_SCHEMA,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
)


def get(session: Session, vm_id: str) -> Any:
    """Returns the domain. Raises NotFoundError VM_NOT_FOUND."""
    with translated(f"looking up VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
    if domain is None:
        raise NotFoundError(f"VM {vm_id} is not on this host", "VM_NOT_FOUND", {"vm": vm_id})
    return domain


def get_active(session: Session, vm_id: str) -> Any:
    """Returns the domain of a running VM. Raises NotFoundError VM_NOT_FOUND, FailedPreconditionError VM_NOT_RUNNING."""
    domain = get(session, vm_id)
    with translated(f"inspecting VM {vm_id}"):
        if not inventory.is_active(domain):
            raise FailedPreconditionError(
                f"VM {vm_id} is not running (start it first)", "VM_NOT_RUNNING", {"vm": vm_id}
            )
    return domain


def define(session: Session, spec: VmSpec, paths: Paths) -> Any:
    """Writes the definition and returns the domain. The caller holds the VM's lock.

    Raises FailedPreconditionError VM_RUNNING, EXTRA_CONFIG_OWNED, EXTRA_CONFIG_INVALID.
    """
    with translated(f"defining VM {spec.vm_id}"):
        connection = session.connect()
        old = inventory.find(connection, spec.vm_id)
        if old is not None and inventory.is_active(old):
            raise _running(spec.vm_id, "stop it before you replace its definition")
        filters.ensure(connection, spec.nics)
        files = {disk.volume.volume_id: disk_file(paths(disk.volume)) for disk in spec.disks}
        domain_type = choose_domain_type(connection, session.domain_type)
        check_machine(connection, spec, domain_type)
        if spec.cluster_cpus and domain_type == "kvm":
            spec = replace(spec, cluster_cpus=(baseline.of_all(connection, spec.cluster_cpus, domain_type),))
        xml = domain_xml(spec, files, domain_type, session.logs.path(spec.vm_id))
        # libvirt validates the XML against its schema, so that a mistake shows here and not at the first start.
        if old is not None:
            drop_old_names(old)
            if old.name() != spec.vm_id:  # another tool has defined it; a name cannot change
                old.undefineFlags(_UNDEFINE)
        try:
            return connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        except libvirt.libvirtError as error:
            if spec.extra and is_code(error, *_BAD_XML):
                raise _invalid_extra(spec.vm_id, error) from error
            raise


def start(session: Session, spec: VmSpec, paths: Paths) -> None:
    """Installs the VM's keys and starts it. The caller holds the VM's lock."""
    with translated(f"looking up VM {spec.vm_id}"):
        found = inventory.find(session.connect(), spec.vm_id)
        if found is not None and inventory.is_active(found):
            return
    # A VM that died unnoticed may have left keys that this start does not need.
    session.secrets.remove(spec.vm_id)
    session.secrets.install(spec.vm_id, spec.keys)
    try:
        domain = define(session, spec, paths)
        session.logs.mark_start(spec.vm_id)
        with translated(f"starting VM {spec.vm_id}"):
            domain.create()
    except BaseException:
        session.secrets.remove(spec.vm_id)
        session.events.did_not_start(spec.vm_id)
        raise


def shut_down(session: Session, vm_id: str) -> None:
    """Presses the ACPI power button."""
    domain = get(session, vm_id)
    try:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
            return  # it has stopped, or is paused: the caller polls its state
        with translated(f"asking VM {vm_id} to shut down"):
            raise


def power_off(session: Session, vm_id: str) -> None:
    """Forces the VM off."""
    with translated(f"stopping VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        if domain is not None and inventory.is_active(domain):
            try:
                domain.destroy()
            except libvirt.libvirtError as error:
                if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                    raise
    remove_unused_keys(session, vm_id)


def reboot(session: Session, resets: Resets, vm_id: str, hard: bool) -> None:
    """Asks the guest to reboot, or resets it."""
    domain = get_active(session, vm_id)
    with translated(f"rebooting VM {vm_id}"):
        if hard:
            resets.reset(domain)
        else:
            domain.reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)


def send_key(session: Session, vm_id: str, codes: Sequence[int]) -> None:
    """Presses keys together and releases them."""
    domain = get_active(session, vm_id)
    with translated(f"pressing keys of VM {vm_id}"):
        domain.sendKey(libvirt.VIR_KEYCODE_SET_LINUX, _HOLD_MS, list(codes), len(codes), 0)


def delete(session: Session, vm_id: str) -> None:
    """Undefines a stopped VM."""
    with session.locks.hold(vm_id), translated(f"deleting VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        if domain is not None:
            if inventory.is_active(domain):
                raise _running(vm_id, "stop it before you delete it")
            drop_old_names(domain)
            try:
                domain.undefineFlags(_UNDEFINE)
            except libvirt.libvirtError as error:
                if not is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                    raise
        session.secrets.remove(vm_id)
        session.logs.delete(vm_id)


def drop_old_names(domain: libvirt.virDomain) -> None:
    """Removes the names that the files of an adopted VM had, once it is stopped: they have their volumes' names."""
    for path, volume_id in metadata.old_names(ElementTree.fromstring(domain.XMLDesc())).items():
        old = Path(path)
        new = old.with_name(volume_id)
        if old.exists() and new.exists() and old.samefile(new):
            old.unlink()


def remove_unused_keys(session: Session, vm_id: str) -> None:
    """Removes a VM's keys unless the VM is running."""
    with session.locks.hold(vm_id), translated(f"removing the keys of VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        if domain is None or not inventory.is_active(domain):
            session.secrets.remove(vm_id)


def _invalid_extra(vm_id: str, error: libvirt.libvirtError) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"libvirt refuses the extra configuration of VM {vm_id}: {error.get_error_message()} (change or remove it)",
        "EXTRA_CONFIG_INVALID",
        {"vm": vm_id},
    )


def _running(vm_id: str, advice: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"VM {vm_id} is running ({advice})", "VM_RUNNING", {"vm": vm_id})
