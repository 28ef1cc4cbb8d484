"""Network interfaces of VMs: a tap device in a bridge, there as long as QEMU holds it."""

from __future__ import annotations

import fcntl
import os
import struct

from ostler_agent.process import run

_TUNSETIFF = 0x400454CA
_TAP, _NO_PACKET_INFO, _VIRTIO_HEADER = 0x0002, 0x1000, 0x4000  # of linux/if_tun.h


def open_tap(bridge: str) -> int:
    """A new tap device in the bridge; the descriptor is the caller's. Raises OSError, RunError."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", b"ostler%d", _TAP | _NO_PACKET_INFO | _VIRTIO_HEADER)
        answer = fcntl.ioctl(descriptor, _TUNSETIFF, request)
        name = answer[:16].rstrip(b"\0").decode()
        run(["ip", "link", "set", "dev", name, "master", bridge, "up"], timeout_s=10)
    except BaseException:
        os.close(descriptor)  # and the device is gone
        raise
    return descriptor
