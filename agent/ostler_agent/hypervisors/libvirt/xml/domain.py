"""Combines the parts of a domain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml import (
    boot_order,
    buses,
    cdrom,
    console,
    cpu,
    disks,
    extra,
    guest_channel,
    memory,
    metadata,
    nics,
    os,
    size,
    tpm,
)
from ostler_agent.hypervisors.libvirt.xml.element import element, to_text
from ostler_agent.spec import VmSpec


def domain(spec: VmSpec, files: Mapping[str, disks.DiskFile], domain_type: str, console_log: Path) -> Element:
    """The domain element of a VM, its extra configuration included, which may raise what `extra.merge` does.

    files: by volume id; domain_type: "kvm", or "qemu" for emulation; console_log: gets what the guest prints on its
    serial console.
    """
    order = boot_order.of(spec)
    devices = [
        *buses.controllers(len(spec.disks) + len(spec.nics) + bool(spec.cdrom)),
        *(disks.disk(disk, files[disk.volume.volume_id], order.disks.get(disk.slot, 0)) for disk in spec.disks),
        *(cdrom.cdrom(spec.cdrom) if spec.cdrom else []),
        *cdrom.drives(spec.cdroms, order.drives),
        *(nics.nic(nic, spec.extra.vhost_user) for nic in spec.nics),
        *console.serial_console(console_log),
        *console.screen(),
        guest_channel.channel(),
        *([tpm.tpm(spec.tpm_key)] if spec.tpm_key else []),
        memory.balloon(),
        buses.random_numbers(),
    ]
    made = element(
        "domain",
        *metadata.identity(spec),
        metadata.metadata(),
        *size.memory(spec),
        size.vcpu(spec),
        os.boot(spec.firmware, spec.machine),
        os.features(spec.firmware),
        cpu.model(spec, domain_type),
        os.clock(),
        *os.lifecycle(),
        element("devices", *devices),
        type=domain_type,
    )
    extra.merge_interfaces(made, spec.extra.interface_xml)
    extra.merge(made, spec.extra.domain_xml)
    guest_channel.keep_last(made)
    return made


def domain_xml(spec: VmSpec, files: Mapping[str, disks.DiskFile], domain_type: str, console_log: Path) -> str:
    """The domain as text."""
    return to_text(domain(spec, files, domain_type, console_log))
