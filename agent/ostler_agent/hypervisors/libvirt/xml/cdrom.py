"""CD-ROM drives: that of the seed, and those for ISO images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from ostler_common.disk_names import disk_name

from ostler_agent.hypervisors.libvirt.xml.element import element
from ostler_agent.spec import MAX_CDROMS, Cdrom


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


def target(drive: int) -> str:
    """The device's name of a drive for ISO images: sdb for drive 0, because the seed's has the first."""
    return disk_name("sd", drive + 1)


def drives(cdroms: Sequence[Cdrom], orders: Mapping[int, int]) -> list[Element]:
    """The drives for ISO images, empty ones included: a running VM gets an ISO image, but no drive.

    On SATA, which installers of all systems have a driver for. orders: the boot order of each drive.
    """
    images = {cdrom.drive: cdrom.path for cdrom in cdroms}
    return [_drive(number, images.get(number), orders[number]) for number in range(MAX_CDROMS)]


def _drive(number: int, image: Path | None, order: int) -> Element:
    return element(
        "disk",
        # Raw, whatever is in the file: a guest or an uploader must not choose what QEMU opens.
        element("driver", name="qemu", type="raw"),
        element("source", file=str(image)) if image else None,
        element("target", dev=target(number), bus="sata"),
        element("readonly"),
        element("boot", order=str(order)),
        type="file",
        device="cdrom",
    )


def find_drive(domain: Element, drive: int) -> Element | None:
    """A drive for ISO images as libvirt reports it."""
    for item in domain.findall("devices/disk[@device='cdrom']"):
        place = item.find("target")
        if place is not None and (place.get("dev"), place.get("bus")) == (target(drive), "sata"):
            return item
    return None


def image_of(item: Element) -> str | None:
    """The file in a drive."""
    source = item.find("source")
    return None if source is None else source.get("file")


def set_image(item: Element, image: Path | None) -> None:
    """Puts a file into a drive's element, or empties it."""
    for source in item.findall("source"):
        item.remove(source)
    if image is not None:
        item.insert(1, element("source", file=str(image)))
