"""A guest as virt-v2v is told of it: its disks, its firmware, and the few arguments that a caller may add."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from ostler_common.disk_names import disk_name
from ostler_common.errors import bad_field

from ostler_agent.spec import Firmware

MAX_ARGUMENTS = 16
_ADDRESSES = r"[0-9A-Fa-f:.]{2,45}(,[0-9A-Fa-f:.]{0,45}(,[0-9]{1,3}(,[0-9A-Fa-f:.]{2,45}){0,4})?)?"
# What may be added, by name: nothing that names a file, a network or another program.
_ALLOWED = {
    "--root": re.compile(r"first|single|/dev/[a-z0-9/_-]{1,64}"),
    "--mac": re.compile(rf"([0-9A-Fa-f]{{2}}:){{5}}[0-9A-Fa-f]{{2}}:ip:{_ADDRESSES}"),
    "--block-driver": re.compile(r"virtio-blk|virtio-scsi"),
}


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises InvalidArgumentError (ARGUMENT_REFUSED) for an argument that is not allowed."""
    if len(arguments) > MAX_ARGUMENTS:
        raise bad_field("extra_arguments", f"must be at most {MAX_ARGUMENTS}", "ARGUMENT_REFUSED")
    for number, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name not in _ALLOWED:
            allowed = ", ".join(sorted(_ALLOWED))
            raise bad_field(f"extra_arguments[{number}]", f"must be --name=value of {allowed}", "ARGUMENT_REFUSED")
        if not _ALLOWED[name].fullmatch(value):
            raise bad_field(f"extra_arguments[{number}]", f"is not a value that {name} may have", "ARGUMENT_REFUSED")


def domain_xml(disks: Sequence[Path], firmware: Firmware) -> str:
    """The libvirt XML that virt-v2v reads the guest from: plain files as disks, the boot disk first.

    Name, memory and CPUs are of no consequence: virt-v2v changes the disks only.
    """
    domain = ElementTree.Element("domain", type="kvm")
    ElementTree.SubElement(domain, "name").text = "guest"
    ElementTree.SubElement(domain, "memory", unit="KiB").text = str(1 << 20)
    ElementTree.SubElement(domain, "vcpu").text = "1"
    boot = ElementTree.SubElement(domain, "os", firmware="bios" if firmware is Firmware.BIOS else "efi")
    ElementTree.SubElement(boot, "type").text = "hvm"
    devices = ElementTree.SubElement(domain, "devices")
    for number, path in enumerate(disks):
        disk = ElementTree.SubElement(devices, "disk", type="file", device="disk")
        ElementTree.SubElement(disk, "driver", name="qemu", type="raw")
        ElementTree.SubElement(disk, "source", file=str(path))
        ElementTree.SubElement(disk, "target", dev=disk_name("sd", number), bus="scsi")
    return ElementTree.tostring(domain, encoding="unicode")
