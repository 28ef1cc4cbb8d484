"""The dirty bitmaps of a running VM's disks, and libvirt's checkpoints, by which a backup uses them.

libvirt has no call that lists bitmaps, so QEMU is asked itself. A checkpoint is libvirt's name for a bitmap of several
disks. libvirt loses it with the VM's definition, while the bitmap is in the disk's file: so checkpoints are made
known to libvirt for a backup only, and forgotten after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import libvirt
import libvirt_qemu
from ostler_common.errors import AbortedError

from ostler_agent import bitmaps
from ostler_agent.hypervisors.base import DiskCopy
from ostler_agent.hypervisors.libvirt.xml.copies import checkpoint_xml
from ostler_agent.hypervisors.libvirt.xml.disks import AttachedDisk
from ostler_agent.spec import DiskFormat


@dataclass(frozen=True)
class Plan:
    """How a VM's disks are copied. increments: libvirt's checkpoint by the volume's id, of those not copied whole.

    reasons: by the volume's id, why it is copied whole, "" if it is not; checkpoint: that the backup makes, None if no
    disk can have one.
    """

    increments: Mapping[str, str]
    reasons: Mapping[str, str]
    checkpoint: str | None


NOTHING = Plan({}, {}, None)


def prepare(
    domain: libvirt.virDomain,
    vm_id: str,
    copies: Sequence[DiskCopy],
    disks: Sequence[AttachedDisk],
    backup_id: str,
) -> Plan:
    """Drops the bitmaps of other backups; makes the usable ones known to libvirt. disks: of the copies, in order."""
    forget(domain)
    opened = nodes(domain, vm_id)
    recorded: list[str] = []
    known: dict[str, list[str]] = {}
    increments: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for copy, disk in zip(copies, disks, strict=True):
        node = opened.get(disk.alias or "")
        if node is None or node.get("drv") != DiskFormat.QCOW2:
            reasons[copy.volume_id] = bitmaps.NOT_QCOW2
            continue
        recorded.append(disk.target)
        found = bitmaps.bitmaps_of(node)
        for name in bitmaps.obsolete(found, copy.since):
            ask(domain, vm_id, "block-dirty-bitmap-remove", {"node": node["node-name"], "name": name})
        reasons[copy.volume_id] = bitmaps.why_full(found, copy.since)
        if not reasons[copy.volume_id]:
            increments[copy.volume_id] = bitmaps.name_of(copy.since)
            known.setdefault(bitmaps.name_of(copy.since), []).append(disk.target)
    for name, targets in known.items():
        domain.checkpointCreateXML(
            checkpoint_xml(name, targets, existing=True), libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
        )
    checkpoint = checkpoint_xml(bitmaps.name_of(backup_id), recorded) if recorded else None
    return Plan(increments, reasons, checkpoint)


def drop_broken(domain: libvirt.virDomain, vm_id: str, disk: AttachedDisk) -> None:
    """Drops a disk's bitmaps that were not saved: QEMU would refuse to grow it."""
    node = nodes(domain, vm_id).get(disk.alias or "", {})
    for bitmap in bitmaps.bitmaps_of(node):
        if bitmap.broken and bitmaps.is_ours(bitmap.name):
            ask(domain, vm_id, "block-dirty-bitmap-remove", {"node": node["node-name"], "name": bitmap.name})


def forget(domain: libvirt.virDomain) -> None:
    """Makes libvirt forget our checkpoints; their bitmaps stay."""
    for checkpoint in domain.listAllCheckpoints():
        if bitmaps.is_ours(checkpoint.getName()):
            checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def nodes(domain: libvirt.virDomain, vm_id: str) -> dict[str, Mapping[str, object]]:
    """What each disk's device has open, by the device's alias."""
    found: dict[str, Mapping[str, object]] = {}
    for device in bitmaps.records(ask(domain, vm_id, "query-block", {})):
        if isinstance(opened := device.get("inserted"), Mapping):
            # The path of a virtio disk is /machine/peripheral/ALIAS/virtio-backend, of others its alias.
            found.update(dict.fromkeys(str(device.get("qdev", "")).split("/"), opened))
    return found


def ask(domain: libvirt.virDomain, vm_id: str, command: str, arguments: Mapping[str, object]) -> object:
    """What QEMU itself answers. Raises AbortedError QEMU_REFUSED."""
    text = libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": command, "arguments": arguments}), 0)
    answer: dict[str, object] = json.loads(text)
    if "return" not in answer:
        error = answer.get("error")
        said = error.get("desc") if isinstance(error, dict) else "no reason given"
        raise AbortedError(f"QEMU of VM {vm_id} refuses {command}: {said}", "QEMU_REFUSED", {"vm": vm_id})
    return answer["return"]
