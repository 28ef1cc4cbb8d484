"""Taking domains over from other tools, and handing them back. Neither touches the guest."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import libvirt
from ostler_common.errors import FailedPreconditionError, NotFoundError

from ostler_agent.hypervisors.foreign import MAX_XML_BYTES, ForeignVm, Problem
from ostler_agent.hypervisors.libvirt import domains, inventory
from ostler_agent.hypervisors.libvirt.errors import is_code, translated
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml import console, foreign, metadata
from ostler_agent.hypervisors.libvirt.xml.element import OSTLER_NS, to_text

_KEY = "ostler"


def describe(session: Session, vm: str) -> ForeignVm:
    """Describes a domain, by UUID or name."""
    with translated(f"inspecting VM {vm}"):
        domain = _lookup(session.connect(), vm)
        root = _read(domain, 0)
        info = inventory.describe(domain)
        persistent = bool(domain.isPersistent())
    found_disks, disk_problems = foreign.disks(root)
    found_nics, nic_problems = foreign.nics(root)
    problems = [*disk_problems, *nic_problems, *foreign.others(root)]
    if info.migrating:
        problems.append(Problem("MIGRATING", "it is migrating to another host"))
    if not persistent:
        problems.append(Problem("TRANSIENT", "it is transient, and becomes persistent", refuses=False))
    return ForeignVm(
        vm_id=info.vm_id,
        name=str(domain.name()),
        power_state=info.power_state,
        cpus=info.cpus,
        memory_bytes=info.memory_bytes,
        uefi=foreign.is_uefi(root),
        secure_boot=foreign.is_secure_boot(root),
        managed=info.managed,
        disks=found_disks,
        nics=found_nics,
        problems=tuple(problems),
    )


def adopt(session: Session, vm_id: str, title: str, volumes: Mapping[Path, str]) -> None:
    """Marks a domain as Ostler's, running and defined."""
    domain = domains.get(session, vm_id)
    with session.locks.hold(vm_id), translated(f"adopting VM {vm_id}"):
        if not domain.isPersistent():
            flags = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE
            domain = session.connect().defineXML(domain.XMLDesc(flags))
        flags = _flags(domain)
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, to_text(metadata.mark(volumes)), _KEY, OSTLER_NS, flags)
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, title, None, None, flags)


def release(session: Session, vm_id: str) -> None:
    """Removes the mark of a domain that is here, and the console log from its definition."""
    with session.locks.hold(vm_id), translated(f"releasing VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        if domain is not None:
            try:
                domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, None, _KEY, OSTLER_NS, _flags(domain))
            except libvirt.libvirtError as error:
                if not is_code(error, libvirt.VIR_ERR_NO_DOMAIN_METADATA):
                    raise
            root = _read(domain, libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE)
            if console.drop_log(root):  # its directory is there as long as Ostler is
                session.connect().defineXML(to_text(root))


def _flags(domain: libvirt.virDomain) -> int:
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE if inventory.is_active(domain) else 0
    return int(live | libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def _lookup(connection: libvirt.virConnect, vm: str) -> libvirt.virDomain:
    domain = None
    with contextlib.suppress(libvirt.libvirtError):
        domain = connection.lookupByUUIDString(vm)
    if domain is None:
        try:
            domain = connection.lookupByName(vm)
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                raise
    if domain is None:
        raise NotFoundError(f"there is no VM {vm!r} on this host", "VM_NOT_FOUND", {"vm": vm})
    return domain


def _read(domain: libvirt.virDomain, flags: int) -> Element:
    xml: str = domain.XMLDesc(flags)
    if len(xml) > MAX_XML_BYTES:
        raise FailedPreconditionError(
            f"the definition of VM {domain.name()} is larger than {MAX_XML_BYTES >> 10} KiB", "DEFINITION_TOO_LARGE"
        )
    return ElementTree.fromstring(xml)
