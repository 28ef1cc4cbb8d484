"""Makes the disks of a VM usable again whose memory was saved, while its guest still stands still.

Once QEMU has written a VM's memory, it leaves its images, so that another QEMU may open them, until the guest runs
again. A copy that begins before that fails, or ends QEMU when the guest goes on. QEMU makes usable what it serves by
NBD: so all disks are served for a moment, on a socket that has no name, to nobody.
"""

from __future__ import annotations

import json
import socket
import tempfile
from pathlib import Path

import libvirt
import libvirt_qemu

from ostler_agent.hypervisors.libvirt.increments import ask, nodes

_SOCKET = "ostler-nobody"


def activate(domain: libvirt.virDomain, vm_id: str) -> None:
    """Makes the images of all writable disks usable. Raises AbortedError QEMU_REFUSED."""
    writable = {str(node["node-name"]) for node in nodes(domain, vm_id).values() if not node.get("ro")}
    _give_socket(domain)
    ask(domain, vm_id, "nbd-server-start", {"addr": {"type": "fd", "data": {"str": _SOCKET}}})
    try:
        for number, node in enumerate(sorted(writable)):
            ask(domain, vm_id, "block-export-add", {"type": "nbd", "id": f"ostler-{number}", "node-name": node})
    finally:
        ask(domain, vm_id, "nbd-server-stop", {})


def _give_socket(domain: libvirt.virDomain) -> None:
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as nobody:
        path = Path(place, "socket")
        nobody.bind(str(path))
        path.unlink()
        command = json.dumps({"execute": "getfd", "arguments": {"fdname": _SOCKET}})
        libvirt_qemu.qemuMonitorCommandWithFiles(domain, command, [nobody.fileno()], 0)
