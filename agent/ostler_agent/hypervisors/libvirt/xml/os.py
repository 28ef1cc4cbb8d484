"""Firmware and machine."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element
from ostler_agent.spec import Firmware


def boot(firmware: Firmware, machine: str) -> Element:
    """PC BIOS, or the UEFI that libvirt selects from the host's firmware descriptions.

    machine: a version of q35, "" for the newest that QEMU has. With secure boot, the firmware has Microsoft's keys
    enrolled. Else it is off: it refuses the unsigned boot loaders of many guests. libvirt stores each VM's variables in
    a separate file and migrates them.
    """
    kind = element("type", "hvm", arch="x86_64", machine=machine or "q35")
    if firmware is Firmware.BIOS:
        return element("os", kind)
    is_on = "yes" if firmware is Firmware.UEFI_SECURE_BOOT else "no"
    secure_boot = [element("feature", enabled=is_on, name=name) for name in ("enrolled-keys", "secure-boot")]
    return element("os", kind, element("firmware", *secure_boot), firmware="efi")


def features(firmware: Firmware) -> Element:
    """Features that PC guests expect. Secure boot needs system management mode, which alone writes its variables."""
    smm = element("smm", state="on") if firmware is Firmware.UEFI_SECURE_BOOT else None
    return element("features", element("acpi"), element("apic"), smm)


def clock() -> Element:
    """A UTC clock; catches up lost ticks gradually; no HPET, which costs host CPU."""
    return element(
        "clock",
        element("timer", name="rtc", tickpolicy="catchup"),
        element("timer", name="pit", tickpolicy="delay"),
        element("timer", name="hpet", present="no"),
        offset="utc",
    )


def lifecycle() -> list[Element]:
    """A crashed guest stops; a rebooting guest continues in the same process."""
    return [
        element("on_poweroff", "destroy"),
        element("on_reboot", "restart"),
        element("on_crash", "destroy"),
    ]


def machine_of(domain: Element) -> str:
    """The machine type of a domain; libvirt names the version, whatever its definition asked for."""
    kind = domain.find("os/type")
    return "" if kind is None else kind.get("machine", "")
