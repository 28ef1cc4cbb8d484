"""The CD-ROM that a guest reads its seed from."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element


def cdrom(image: Path) -> list[Element]:
    """A read-only image on a virtio-scsi controller of its own; never booted from.

    Not on SATA, which the machine has anyway: kernels for clouds, such as Debian's, have no driver for that.
    """
    drive = element(
        "disk",
        element("driver", name="qemu", type="raw"),
        element("source", file=str(image)),
        element("target", dev="sda", bus="scsi"),
        element("readonly"),
        type="file",
        device="cdrom",
    )
    return [element("controller", type="scsi", index="0", model="virtio-scsi"), drive]


def has_image(domain: Element) -> bool:
    """Whether a domain has such a CD-ROM."""
    return domain.find("devices/disk[@device='cdrom']/source") is not None
