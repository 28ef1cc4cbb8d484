"""Network interfaces of VMs: tap devices in a bridge, which exist while QEMU has them open."""

from __future__ import annotations

import fcntl
import os
import struct

from ostler_agent.process import run

_TUNSETIFF = 0x400454CA
_TAP, _NO_PACKET_INFO, _VIRTIO_HEADER = 0x0002, 0x1000, 0x4000  # of linux/if_tun.h


def open_tap(bridge: str) -> int:
    """Creates a tap device in the bridge; the caller owns the descriptor. Raises OSError, RunError."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", b"ostler%d", _TAP | _NO_PACKET_INFO | _VIRTIO_HEADER)
        answer = fcntl.ioctl(descriptor, _TUNSETIFF, request)
        name = answer[:16].rstrip(b"\0").decode()
        run(["ip", "link", "set", "dev", name, "master", bridge, "up"], timeout_s=10)
    except BaseException:
        os.close(descriptor)  # this deletes the device
        raise
    return descriptor
