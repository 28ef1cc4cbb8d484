"""Attaches, detaches and grows the disks of a VM."""

from __future__ import annotations

import queue
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
from ostler_common.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
)

from ostler_agent.hypervisors.base import Progress
from ostler_agent.hypervisors.libvirt import domains, increments, inventory, live
from ostler_agent.hypervisors.libvirt.errors import is_code, translated
from ostler_agent.hypervisors.libvirt.events import RawEvent
from ostler_agent.hypervisors.libvirt.host import disk_file
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml import disks
from ostler_agent.hypervisors.libvirt.xml.element import to_text
from ostler_agent.spec import DiskSpec

POLL_INTERVAL_S = 0.5
_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG


def attach(session: Session, vm_id: str, disk: DiskSpec, path: Path) -> None:
    """Attaches a disk, live if the VM is running. The caller holds the VM's lock."""
    domain = domains.get(session, vm_id)
    volume, xml = disk.volume, to_text(disks.disk(disk, disk_file(path)))
    with translated(f"attaching volume {volume.volume_id} to VM {vm_id}"):
        active = inventory.is_active(domain)
        configured = _present(inventory.configured_disks(domain), disk, vm_id)
        live = not active or _present(inventory.active_disks(domain), disk, vm_id)
        if not live and volume.key:
            session.secrets.install(vm_id, [volume.key])
        # The definition first: it can be undone without the guest.
        if not configured:
            domain.attachDeviceFlags(xml, _CONFIG)
        try:
            if not live:
                domain.attachDeviceFlags(xml, _LIVE)
        except BaseException:
            if not configured:
                domain.detachDeviceFlags(xml, _CONFIG)
            if volume.key:
                session.secrets.remove(vm_id, [volume.key.key_id])
            raise


def detach(
    session: Session,
    vm_id: str,
    volume_id: str,
    key_id: str | None,
    timeout_s: float,
    progress: Progress,
) -> None:
    """Detaches a disk: from the guest first, then from the definition; then removes its key."""
    with translated(f"detaching volume {volume_id} from VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        if domain is not None:
            _detach_live(domain, session, vm_id, volume_id, timeout_s, progress)
            with session.locks.hold(vm_id):
                _detach_configured(domain, volume_id)
        if key_id:
            session.secrets.remove(vm_id, [key_id])


def grow(session: Session, vm_id: str, volume_id: str, size_bytes: int) -> None:
    """Grows a disk of a running VM."""
    domain = domains.get_active(session, vm_id)
    with translated(f"growing volume {volume_id} of VM {vm_id}"):
        disk = next((disk for disk in inventory.active_disks(domain) if disk.volume_id == volume_id), None)
        if disk is None:
            raise NotFoundError(f"volume {volume_id} is not attached to VM {vm_id}", "VOLUME_NOT_ATTACHED")
        live.refuse_busy(domain, vm_id, [disk])
        size_now = domain.blockInfo(disk.target)[0]
        if size_bytes < size_now:
            raise FailedPreconditionError(
                f"volume {volume_id} already has {size_now} bytes (a volume cannot shrink)", "VOLUME_SHRINK"
            )
        if size_bytes > size_now:
            increments.drop_broken(domain, vm_id, disk)
            domain.blockResize(disk.target, size_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)


def _present(attached: list[disks.AttachedDisk], disk: DiskSpec, vm_id: str) -> bool:
    """Whether the volume is attached in its slot. Raises FailedPreconditionError SLOT_TAKEN, VOLUME_ATTACHED."""
    device = disks.target(disk.slot)
    for other in attached:
        same_volume, same_slot = other.volume_id == disk.volume.volume_id, other.target == device
        if same_volume and same_slot:
            return True
        if same_slot:
            raise FailedPreconditionError(
                f"slot {disk.slot} of VM {vm_id} is taken by {other.volume_id or other.path} (choose a free slot)",
                "SLOT_TAKEN",
            )
        if same_volume:
            raise FailedPreconditionError(
                f"volume {other.volume_id} is already attached to VM {vm_id} as {other.target}", "VOLUME_ATTACHED"
            )
    return False


def _detach_live(
    domain: Any, session: Session, vm_id: str, volume_id: str, timeout_s: float, progress: Progress
) -> None:
    disk = _live_disk(domain, volume_id)
    if disk is None:
        return
    live.refuse_busy(domain, vm_id, [disk])
    deadline = time.monotonic() + timeout_s
    with session.events.tap(vm_id) as events:
        try:
            domain.detachDeviceFlags(_device_xml(domain, disk.path), _LIVE)
        except libvirt.libvirtError as error:
            if not unplug_pending(error):
                raise
        progress.report("waiting for the guest to release the disk")
        while _live_disk(domain, volume_id) is not None:
            progress.check()
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"the guest of VM {vm_id} did not release volume {volume_id} within {timeout_s:.0f} s "
                    "(unmount it in the guest, then try again, or stop the VM)",
                    "DETACH_TIMEOUT",
                )
            if refused(events, disk.alias):
                raise FailedPreconditionError(
                    f"the guest of VM {vm_id} refuses to release volume {volume_id} (unmount it in the guest)",
                    "DETACH_REFUSED",
                )


def _detach_configured(domain: Any, volume_id: str) -> None:
    disk = next((disk for disk in inventory.configured_disks(domain) if disk.volume_id == volume_id), None)
    if disk is not None:
        domain.detachDeviceFlags(_device_xml(domain, disk.path, libvirt.VIR_DOMAIN_XML_INACTIVE), _CONFIG)


def _live_disk(domain: Any, volume_id: str) -> disks.AttachedDisk | None:
    if not inventory.is_active(domain):
        return None
    return next((disk for disk in inventory.active_disks(domain) if disk.volume_id == volume_id), None)


def _device_xml(domain: Any, path: str, flags: int = 0) -> str:
    """The disk's element exactly as libvirt reports it."""
    root = ElementTree.fromstring(domain.XMLDesc(flags))
    for item in root.findall("devices/disk"):
        if disks.path_of(item.find("source")) == path:
            return to_text(item)
    raise NotFoundError(f"the VM has no disk {path}", "VOLUME_NOT_ATTACHED")


def unplug_pending(error: libvirt.libvirtError) -> bool:
    """Whether an earlier unplug request is pending in the guest, or the guest has just released the disk."""
    pending = is_code(error, libvirt.VIR_ERR_OPERATION_FAILED) and "unplug" in error.get_error_message()
    return pending or is_code(error, libvirt.VIR_ERR_DEVICE_MISSING)


def refused(events: queue.SimpleQueue[RawEvent], alias: str | None) -> bool:
    """Waits briefly for an event; returns whether it was the guest's refusal."""
    try:
        event = events.get(timeout=POLL_INTERVAL_S)
    except queue.Empty:
        return False
    return event.kind == "device-kept" and event.alias == alias
