"""The CD-ROM that a guest reads its seed from."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element


def cdrom(image: Path) -> Element:
    """A read-only image on the machine's own SATA controller, which every guest has a driver for; never booted from."""
    return element(
        "disk",
        element("driver", name="qemu", type="raw"),
        element("source", file=str(image)),
        element("target", dev="sda", bus="sata"),
        element("readonly"),
        type="file",
        device="cdrom",
    )


def has_image(domain: Element) -> bool:
    """Whether a domain has such a CD-ROM."""
    return domain.find("devices/disk[@device='cdrom']/source") is not None
