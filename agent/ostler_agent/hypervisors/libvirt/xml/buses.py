"""Controllers and small devices."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element

HOTPLUG_PORTS = 8
OTHER_DEVICES = 3  # balloon, random numbers, the guest agent's channel


def controllers(devices: int) -> list[Element]:
    """A PCIe root port per disk, NIC and CD-ROM, and spare ports, which hot-plug needs."""
    ports = devices + OTHER_DEVICES + HOTPLUG_PORTS
    return [
        element("controller", type="usb", model="none"),
        element("controller", type="pci", index="0", model="pcie-root"),
        *(element("controller", type="pci", index=str(index), model="pcie-root-port") for index in range(1, ports + 1)),
    ]


def random_numbers() -> Element:
    """A source of entropy for the guest."""
    return element("rng", element("backend", "/dev/urandom", model="random"), model="virtio")
