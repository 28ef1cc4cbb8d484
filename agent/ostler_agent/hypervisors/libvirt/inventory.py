"""What libvirt knows of VMs, as values."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import libvirt

from ostler_agent.hypervisors.libvirt.errors import is_code
from ostler_agent.hypervisors.libvirt.xml import disks, metadata
from ostler_agent.spec import PowerState, VmInfo

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.RUNNING,  # on its way down: still in memory
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.PAUSED,
}


def absent(vm_id: str) -> VmInfo:
    """A VM that is not here."""
    return VmInfo(vm_id, "", PowerState.ABSENT, cpus=0, memory_bytes=0, volume_ids=(), managed=False)


def find(connection: Any, vm_id: str) -> Any | None:
    """The domain with this UUID, or None."""
    try:
        return connection.lookupByUUIDString(vm_id)
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise


def is_active(domain: Any) -> bool:
    """Whether it executes or is paused in memory; one that has gone does not."""
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return False
        raise


def describe(domain: Any) -> VmInfo:
    """The VM as it is now; one that goes away meanwhile is absent."""
    vm_id = domain.UUIDString()
    try:
        state, _ = domain.state()
        root = ElementTree.fromstring(domain.XMLDesc())
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return absent(vm_id)
        raise
    power_state = _STATES.get(state, PowerState.STOPPED)
    attached = disks.attached_disks(root)
    return VmInfo(
        vm_id=vm_id,
        name=root.findtext("title") or root.findtext("name") or vm_id,
        power_state=power_state,
        cpus=int(root.findtext("vcpu") or 0),
        memory_bytes=int(root.findtext("memory") or 0) * 1024,  # libvirt always answers in KiB
        volume_ids=tuple(disk.volume_id for disk in attached if disk.volume_id),
        managed=metadata.is_managed(root),
        migrating=power_state in (PowerState.RUNNING, PowerState.PAUSED) and is_migrating_out(domain),
        mirror_ids=tuple(disk.mirror.volume_id for disk in attached if disk.mirror and disk.mirror.volume_id),
    )


def is_migrating_out(domain: Any) -> bool:
    """Whether a migration to elsewhere is under way."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError:
        return False  # stopped meanwhile, or a driver without jobs
    return bool(
        stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE
        and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
    )


def active_disks(domain: Any) -> list[disks.AttachedDisk]:
    """The disks of an executing domain as they are now; none when it is gone."""
    return _disks(domain, 0)


def configured_disks(domain: Any) -> list[disks.AttachedDisk]:
    """The disks that the domain will have at its next start."""
    return _disks(domain, libvirt.VIR_DOMAIN_XML_INACTIVE)


def _disks(domain: Any, flags: int) -> list[disks.AttachedDisk]:
    try:
        return disks.attached_disks(ElementTree.fromstring(domain.XMLDesc(flags)))
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return []
        raise
