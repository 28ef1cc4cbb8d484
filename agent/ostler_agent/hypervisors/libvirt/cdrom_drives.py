"""CD-ROM drives of running VMs."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import libvirt
from ostler_common.errors import FailedPreconditionError

from ostler_agent.hypervisors.libvirt import domains
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml import cdrom
from ostler_agent.hypervisors.libvirt.xml.element import to_text

_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG


def change(session: Session, vm_id: str, drive: int, image: Path | None) -> None:
    """Puts a file into a drive, or empties it, in the guest and in the definition. The caller holds the VM's lock."""
    domain = domains.get_active(session, vm_id)
    with translated(f"changing CD-ROM drive {drive} of VM {vm_id}"):
        for xml_flags, flags in ((0, _LIVE), (libvirt.VIR_DOMAIN_XML_INACTIVE, _CONFIG)):
            item = cdrom.find_drive(ElementTree.fromstring(domain.XMLDesc(xml_flags)), drive)
            if item is None and flags == _LIVE:
                raise FailedPreconditionError(
                    f"VM {vm_id} runs without CD-ROM drive {drive}: it started before hosts gave their VMs such drives "
                    "(stop and start it)",
                    "CDROM_MISSING",
                    {"vm": vm_id},
                )
            if item is not None and cdrom.image_of(item) != (str(image) if image else None):
                cdrom.set_image(item, image)
                # Force: a guest that has mounted an ISO image locks the drive.
                domain.updateDeviceFlags(to_text(item), flags | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE)
