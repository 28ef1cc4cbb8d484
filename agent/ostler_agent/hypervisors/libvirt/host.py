"""Properties of the host: domain type, direct I/O."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
from ostler_common.errors import FailedPreconditionError

from ostler_agent.hypervisors.libvirt.xml.disks import DiskFile
from ostler_agent.image_header import is_device
from ostler_agent.spec import VmSpec


def domain_types(capabilities_xml: str) -> list[str]:
    """The domain types for x86_64 guests in libvirt's capabilities: "kvm", "qemu"."""
    root = ElementTree.fromstring(capabilities_xml)
    guests = [guest.find("arch") for guest in root.findall("guest") if guest.findtext("os_type") == "hvm"]
    return [
        domain.get("type", "")
        for arch in guests
        if arch is not None and arch.get("name") == "x86_64"
        for domain in arch.findall("domain")
    ]


def choose_domain_type(connection: Any, configured: str) -> str:
    """Returns the domain type to use. configured: "auto" (kvm if libvirt lists it), "kvm" or "qemu".

    Raises FailedPreconditionError DOMAIN_TYPE_MISSING if libvirt does not list it.
    """
    listed = domain_types(connection.getCapabilities())
    wanted = ("kvm", "qemu") if configured == "auto" else (configured,)
    for domain_type in wanted:
        if domain_type in listed:
            return domain_type
    raise FailedPreconditionError(
        f"libvirt cannot run {' or '.join(wanted)} guests here, only {', '.join(listed) or 'none'} "
        "(is virtualization enabled in the firmware, and QEMU installed?)",
        "DOMAIN_TYPE_MISSING",
    )


def check_machine(connection: libvirt.virConnect, spec: VmSpec, domain_type: str) -> None:
    """Raises FailedPreconditionError MACHINE_NOT_SUPPORTED if QEMU here has not the machine type that the VM keeps."""
    if not spec.machine:
        return
    try:
        connection.getDomainCapabilities(None, "x86_64", spec.machine, domain_type)
    except libvirt.libvirtError:
        raise FailedPreconditionError(
            f"this host's QEMU has no machine type {spec.machine}, which VM {spec.name} keeps since its first start; "
            "start it on a host whose QEMU has it, or give it the newest (ostler vm upgrade-machine)",
            "MACHINE_NOT_SUPPORTED",
            {"vm": spec.vm_id, "machine": spec.machine},
        ) from None


def can_do_direct_io(path: Path) -> bool:
    """Whether the file's file system supports O_DIRECT; True if the file does not exist."""
    try:
        follow = 0 if is_device(path) else os.O_NOFOLLOW
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_NONBLOCK | follow))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def disk_file(path: Path) -> DiskFile:
    """Returns the file or device with its properties."""
    return DiskFile(path, can_do_direct_io(path), is_device(path))
