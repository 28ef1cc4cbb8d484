"""Copies of a running disk."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml import disks
from ostler_agent.hypervisors.libvirt.xml.disks import DiskFile, set_path
from ostler_agent.hypervisors.libvirt.xml.element import element, to_text
from ostler_agent.spec import VolumeRef


def backup_xml(device: str, others: list[str], target: VolumeRef, file: DiskFile) -> str:
    """A backup of only one disk (vda) into an existing image."""
    place = element("target", disks.encryption(target.key.key_id) if target.key else None)
    disk = element("disk", place, element("driver", type=target.format.value), name=device, backup="yes")
    set_path(disk, place, file.path, device=file.device)
    left_out = [element("disk", name=other, backup="no") for other in others]
    return to_text(element("domainbackup", element("disks", disk, *left_out), mode="push"))


def backup_targets(xml: str) -> list[Path]:
    """The paths that a running backup writes to."""
    paths = (disks.path_of(place) for place in ElementTree.fromstring(xml).findall("disks/disk/target"))
    return [Path(path) for path in paths if path]


def mirror_xml(target: VolumeRef, file: DiskFile) -> str:
    """The image to mirror a disk to."""
    source: Element = element("source", disks.encryption(target.key.key_id) if target.key else None)
    disk = element("disk", element("driver", name="qemu", type=target.format.value), source, element("backingStore"))
    set_path(disk, source, file.path, device=file.device)
    return to_text(disk)
