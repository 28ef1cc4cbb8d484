"""Takes a screenshot of a VM."""

from __future__ import annotations

from ostler_agent.hypervisors.libvirt import domains
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.png import to_png
from ostler_agent.hypervisors.libvirt.session import Session

CHUNK_BYTES = 256 * 1024


def screenshot(session: Session, vm_id: str) -> bytes:
    """Returns the first screen as PNG."""
    domain = domains.get_active(session, vm_id)
    with translated(f"taking a screenshot of VM {vm_id}"):
        stream = session.connect().newStream()
        domain.screenshot(stream, 0)
        picture = bytearray()
        while chunk := stream.recv(CHUNK_BYTES):
            picture += chunk
        stream.finish()
    return to_png(bytes(picture))
