"""libvirt's VMs as values."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import libvirt

from ostler_agent.hypervisors.libvirt.errors import is_code
from ostler_agent.hypervisors.libvirt.xml import disks, metadata, os, size, tpm
from ostler_agent.spec import PauseReason, PowerState, VmInfo

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.RUNNING,  # shutting down: still in memory
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.PAUSED,
}


def power_state(state: int) -> PowerState:
    """The power state for one of libvirt's VIR_DOMAIN_*."""
    return _STATES.get(state, PowerState.STOPPED)


def absent(vm_id: str) -> VmInfo:
    """Describes a VM that is not on this host."""
    return VmInfo(vm_id, "", PowerState.ABSENT, cpus=0, memory_bytes=0, volume_ids=(), managed=False)


def find(connection: Any, vm_id: str) -> Any | None:
    """Returns the domain with this UUID, or None."""
    try:
        return connection.lookupByUUIDString(vm_id)
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise


def is_active(domain: Any) -> bool:
    """Whether the domain is running or paused in memory; False if it is gone."""
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return False
        raise


def describe(domain: Any) -> VmInfo:
    """Returns the VM's current state; ABSENT if it has gone meanwhile."""
    vm_id = domain.UUIDString()
    try:
        state, why = domain.state()
        root = ElementTree.fromstring(domain.XMLDesc())
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return absent(vm_id)
        raise
    power = power_state(state)
    stalled = state == libvirt.VIR_DOMAIN_PAUSED and why == libvirt.VIR_DOMAIN_PAUSED_IOERROR
    attached = disks.attached_disks(root)
    return VmInfo(
        vm_id=vm_id,
        name=root.findtext("title") or root.findtext("name") or vm_id,
        power_state=power,
        cpus=size.cpus(root),
        memory_bytes=size.memory_bytes(root),
        volume_ids=tuple(disk.volume_id for disk in attached if disk.volume_id),
        managed=metadata.is_managed(root),
        migrating=power in (PowerState.RUNNING, PowerState.PAUSED) and is_migrating_out(domain),
        mirror_ids=tuple(disk.mirror.volume_id for disk in attached if disk.mirror and disk.mirror.volume_id),
        pause_reason=_pause_reason(domain) if stalled else None,
        machine=os.machine_of(root),
    )


def _pause_reason(domain: libvirt.virDomain) -> PauseReason:
    """Which error of a disk QEMU paused the domain for."""
    try:
        errors = domain.diskErrors()
    except libvirt.libvirtError:
        return PauseReason.IO_ERROR  # the VM has gone on or stopped meanwhile
    return PauseReason.NO_SPACE if libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE in errors.values() else PauseReason.IO_ERROR


def is_migrating_out(domain: Any) -> bool:
    """Whether a migration to another host is running."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError:
        return False  # the VM has stopped, or the driver has no jobs
    return bool(
        stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE
        and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
    )


def active_disks(domain: Any) -> list[disks.AttachedDisk]:
    """The current disks of a running domain; none if it is gone."""
    return _disks(domain, 0)


def active_keys(domain: libvirt.virDomain) -> set[str]:
    """Ids of the keys that a running domain uses; none if it is gone."""
    try:
        root = ElementTree.fromstring(domain.XMLDesc())
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return set()
        raise
    return tpm.key_ids(root).union(*(disk.key_ids for disk in disks.attached_disks(root)))


def configured_disks(domain: Any) -> list[disks.AttachedDisk]:
    """The disks that the domain has at its next start."""
    return _disks(domain, libvirt.VIR_DOMAIN_XML_INACTIVE)


def _disks(domain: Any, flags: int) -> list[disks.AttachedDisk]:
    try:
        return disks.attached_disks(ElementTree.fromstring(domain.XMLDesc(flags)))
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return []
        raise
