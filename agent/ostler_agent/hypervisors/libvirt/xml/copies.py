"""Copies of a running disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml import disks
from ostler_agent.hypervisors.libvirt.xml.disks import DiskFile, set_path
from ostler_agent.hypervisors.libvirt.xml.element import element, to_text
from ostler_agent.spec import VolumeRef


@dataclass(frozen=True)
class BackupDisk:
    """A disk (vda) that is backed up into an existing image. since: the checkpoint to build on, "" to copy it whole."""

    device: str
    target: VolumeRef
    file: DiskFile
    since: str = ""


def backup_xml(backed_up: Sequence[BackupDisk], others: Sequence[str]) -> str:
    """A backup of these disks into existing images. others: the VM's other disks."""
    left_out = [element("disk", name=other, backup="no") for other in others]
    return to_text(element("domainbackup", element("disks", *map(_backup_disk, backed_up), *left_out), mode="push"))


def _backup_disk(backed_up: BackupDisk) -> Element:
    key = backed_up.target.key
    place = element("target", disks.encryption(key.key_id) if key else None)
    driver = element("driver", type=backed_up.target.format.value)
    mode = {"backupmode": "incremental", "incremental": backed_up.since} if backed_up.since else {}
    disk = element("disk", place, driver, name=backed_up.device, backup="yes", **mode)
    set_path(disk, place, backed_up.file.path, device=backed_up.file.device)
    return disk


def backup_targets(xml: str) -> list[Path]:
    """The paths that a running backup writes to."""
    paths = (disks.path_of(place) for place in ElementTree.fromstring(xml).findall("disks/disk/target"))
    return [Path(path) for path in paths if path]


def checkpoint_xml(name: str, devices: Sequence[str], existing: bool = False) -> str:
    """A checkpoint with a bitmap of its name in each of these disks (vda). existing: libvirt does not know it yet."""
    disks_of = element("disks", *(element("disk", name=device, checkpoint="bitmap", bitmap=name) for device in devices))
    # libvirt wants to know when it was made; nothing depends on it.
    made = element("creationTime", "1") if existing else None
    return to_text(element("domaincheckpoint", element("name", name), made, disks_of))


def mirror_xml(target: VolumeRef, file: DiskFile) -> str:
    """The image to mirror a disk to."""
    source: Element = element("source", disks.encryption(target.key.key_id) if target.key else None)
    disk = element("disk", element("driver", name="qemu", type=target.format.value), source, element("backingStore"))
    set_path(disk, source, file.path, device=file.device)
    return to_text(disk)
