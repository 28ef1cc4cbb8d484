"""The screen of a VM as a byte stream: QEMU's VNC server, over a connection that libvirt hands in."""

from __future__ import annotations

import socket
from xml.etree import ElementTree

import libvirt
from ostler_common.errors import FailedPreconditionError

from ostler_agent.hypervisors.libvirt import domains
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.session import Session


def connect(session: Session, vm_id: str) -> socket.socket:
    """A connection to the VNC server of a running VM, which has no port for it: its end goes to QEMU by its monitor.

    Raises FailedPreconditionError VM_NOT_RUNNING, SCREEN_MISSING.
    """
    domain = domains.get_active(session, vm_id)
    with translated(f"opening the screen of VM {vm_id}"):
        kinds = [found.get("type") for found in ElementTree.fromstring(domain.XMLDesc()).iterfind("devices/graphics")]
        if "vnc" not in kinds:
            raise FailedPreconditionError(
                f"VM {vm_id} has no screen that VNC reaches (it runs as another tool defined it: restart it)",
                "SCREEN_MISSING",
                {"vm": vm_id},
            )
        descriptor: int = domain.openGraphicsFD(kinds.index("vnc"), libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH)
    return socket.socket(fileno=descriptor)
