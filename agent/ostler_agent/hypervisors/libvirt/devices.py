"""Disks of a VM: attached, detached, grown."""

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
from ostler_agent.hypervisors.libvirt import domains, inventory, live
from ostler_agent.hypervisors.libvirt.errors import is_code, translated
from ostler_agent.hypervisors.libvirt.events import Events, RawEvent
from ostler_agent.hypervisors.libvirt.host import disk_file
from ostler_agent.hypervisors.libvirt.locks import VmLocks
from ostler_agent.hypervisors.libvirt.secrets import Secrets
from ostler_agent.hypervisors.libvirt.xml import disks
from ostler_agent.hypervisors.libvirt.xml.element import to_text
from ostler_agent.spec import DiskSpec

POLL_INTERVAL_S = 0.5
_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG


def attach(connection: Any, secrets: Secrets, vm_id: str, disk: DiskSpec, path: Path) -> None:
    """Attaches a disk, live when the VM executes. The caller holds the VM's lock."""
    domain = domains.get(connection, vm_id)
    volume, xml = disk.volume, to_text(disks.disk(disk, disk_file(path)))
    with translated(f"attaching volume {volume.volume_id} to VM {vm_id}"):
        active = inventory.is_active(domain)
        configured = _present(inventory.configured_disks(domain), disk, vm_id)
        live = not active or _present(inventory.active_disks(domain), disk, vm_id)
        if not live and volume.key:
            secrets.hold(vm_id, [volume.key])
        # The definition first: it can be taken back without asking the guest.
        if not configured:
            domain.attachDeviceFlags(xml, _CONFIG)
        try:
            if not live:
                domain.attachDeviceFlags(xml, _LIVE)
        except BaseException:
            if not configured:
                domain.detachDeviceFlags(xml, _CONFIG)
            if volume.key:
                secrets.drop(vm_id, [volume.key.key_id])
            raise


def detach(
    connection: Any,
    locks: VmLocks,
    secrets: Secrets,
    events: Events,
    vm_id: str,
    volume_id: str,
    key_id: str | None,
    timeout_s: float,
    progress: Progress,
) -> None:
    """Detaches a disk: first the guest lets go, then the definition forgets it, then its key goes."""
    with translated(f"detaching volume {volume_id} from VM {vm_id}"):
        domain = inventory.find(connection, vm_id)
        if domain is not None:
            _detach_live(domain, events, vm_id, volume_id, timeout_s, progress)
            with locks.hold(vm_id):
                _detach_configured(domain, volume_id)
        if key_id:
            secrets.drop(vm_id, [key_id])


def grow(connection: Any, vm_id: str, volume_id: str, size_bytes: int) -> None:
    """Grows a disk of an executing VM."""
    domain = domains.get_active(connection, vm_id)
    with translated(f"growing volume {volume_id} of VM {vm_id}"):
        disk = next((disk for disk in inventory.active_disks(domain) if disk.volume_id == volume_id), None)
        if disk is None:
            raise NotFoundError(f"volume {volume_id} is not attached to VM {vm_id}", "VOLUME_NOT_ATTACHED")
        live.refuse_busy(domain, vm_id, [disk])
        size_now = domain.blockInfo(disk.target)[0]
        if size_bytes < size_now:
            raise FailedPreconditionError(
                f"volume {volume_id} has {size_now} bytes already (a volume cannot shrink)", "VOLUME_SHRINK"
            )
        if size_bytes > size_now:
            domain.blockResize(disk.target, size_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)


def _present(attached: list[disks.AttachedDisk], disk: DiskSpec, vm_id: str) -> bool:
    """Whether the volume is attached in its slot; another volume there, or it elsewhere, is refused."""
    device = disks.target(disk.slot)
    for other in attached:
        same_volume, same_slot = other.volume_id == disk.volume.volume_id, other.target == device
        if same_volume and same_slot:
            return True
        if same_slot:
            raise FailedPreconditionError(
                f"slot {disk.slot} of VM {vm_id} holds {other.volume_id or other.path} (choose a free slot)",
                "SLOT_TAKEN",
            )
        if same_volume:
            raise FailedPreconditionError(
                f"volume {other.volume_id} is attached to VM {vm_id} as {other.target} already", "VOLUME_ATTACHED"
            )
    return False


def _detach_live(domain: Any, events: Events, vm_id: str, volume_id: str, timeout_s: float, progress: Progress) -> None:
    disk = _live_disk(domain, volume_id)
    if disk is None:
        return
    live.refuse_busy(domain, vm_id, [disk])
    deadline = time.monotonic() + timeout_s
    with events.tap(vm_id) as heard:
        try:
            domain.detachDeviceFlags(_device_xml(domain, disk.path), _LIVE)
        except libvirt.libvirtError as error:
            if not _unplug_pending(error):
                raise
        progress.report("waiting for the guest to let go of the disk")
        while _live_disk(domain, volume_id) is not None:
            progress.check()
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"the guest of VM {vm_id} has not let go of volume {volume_id} within {timeout_s:.0f} s "
                    "(unmount it in the guest, then try again, or stop the VM)",
                    "DETACH_TIMEOUT",
                )
            if _refused(heard, disk.alias):
                raise FailedPreconditionError(
                    f"the guest of VM {vm_id} refuses to let go of volume {volume_id} (unmount it in the guest)",
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
    """The disk's element just as libvirt has it."""
    root = ElementTree.fromstring(domain.XMLDesc(flags))
    for item in root.findall("devices/disk"):
        if disks.path_of(item.find("source")) == path:
            return to_text(item)
    raise NotFoundError(f"no disk {path}", "VOLUME_NOT_ATTACHED")


def _unplug_pending(error: libvirt.libvirtError) -> bool:
    """Whether the guest was asked earlier and has yet to answer, or has let go since we looked."""
    asked = is_code(error, libvirt.VIR_ERR_OPERATION_FAILED) and "unplug" in error.get_error_message()
    return asked or is_code(error, libvirt.VIR_ERR_DEVICE_MISSING)


def _refused(heard: queue.SimpleQueue[RawEvent], alias: str | None) -> bool:
    """Waits a moment for something to happen; whether it was the guest's refusal."""
    try:
        event = heard.get(timeout=POLL_INTERVAL_S)
    except queue.Empty:
        return False
    return event.kind == "device-kept" and event.alias == alias
