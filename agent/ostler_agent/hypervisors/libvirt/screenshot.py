"""A picture of a VM's screen."""

from __future__ import annotations

from typing import Any

from ostler_agent.hypervisors.libvirt import domains
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.png import to_png

CHUNK_BYTES = 256 * 1024


def screenshot(connection: Any, vm_id: str) -> bytes:
    """The first screen as PNG."""
    domain = domains.get_active(connection, vm_id)
    with translated(f"taking a picture of VM {vm_id}"):
        stream = connection.newStream()
        domain.screenshot(stream, 0)
        picture = bytearray()
        while chunk := stream.recv(CHUNK_BYTES):
            picture += chunk
        stream.finish()
    return to_png(bytes(picture))
