"""QEMU's command line and devices as values; pure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ostler_qemu_driver.definition import Definition, Disk

PID_FILE, MONITOR, CONSOLE = "pid", "qmp", "console"
# Fixed slots on the PCI bus, so that a guest has the same device in the same slot after every start.
_VGA, _BALLOON, _RANDOM, _FIRST_DISK, _FIRST_NIC = 0x2, 0x3, 0x4, 0x5, 0x15
_ACCELERATORS = {"auto": ("kvm", "tcg"), "kvm": ("kvm",), "tcg": ("tcg",)}
SERIAL_LENGTH = 20  # virtio-blk's limit


def command(
    qemu: str, accel: str, definition: Definition, directory: Path, sockets: Mapping[str, int], taps: Sequence[int]
) -> list[str]:
    """The command. sockets: listening sockets for MONITOR and CONSOLE; taps: one per NIC; both as descriptors."""
    argv = [qemu, "-name", f"guest={_plain(definition.name)},debug-threads=on", "-uuid", definition.vm_id]
    argv += ["-nodefaults", "-no-user-config", "-machine", "pc", "-cpu", "max"]
    for accelerator in _ACCELERATORS[accel]:
        argv += ["-accel", accelerator]  # QEMU takes the first that works
    argv += ["-smp", str(definition.cpus), "-m", f"{definition.memory_bytes // 1024}k"]
    argv += ["-rtc", "base=utc,driftfix=slew", "-display", "none", "-device", f"VGA,addr={_VGA:#x}"]
    for name, descriptor in sockets.items():
        argv += ["-chardev", f"socket,id={name},fd={descriptor},server=on,wait=off"]
    argv += ["-mon", f"chardev={MONITOR},mode=control", "-serial", f"chardev:{CONSOLE}"]
    argv += ["-device", f"virtio-balloon-pci,id=balloon,addr={_BALLOON:#x}"]
    argv += ["-object", "rng-random,id=random,filename=/dev/urandom"]
    argv += ["-device", f"virtio-rng-pci,rng=random,addr={_RANDOM:#x}"]
    for disk in definition.disks:
        argv += ["-blockdev", json.dumps(node(disk)), "-device", json.dumps(device(disk))]
    for number, (nic, tap) in enumerate(zip(definition.nics, taps, strict=True)):
        model = "virtio-net-pci" if nic.model == "virtio" else nic.model
        argv += ["-netdev", f"tap,id=net{number},fd={tap}"]
        argv += ["-device", f"{_plain(model)},netdev=net{number},mac={nic.mac},addr={_FIRST_NIC + number:#x}"]
    # -daemonize reports a failed start, and detaches the process from the agent.
    return [
        *argv,
        "-sandbox",
        "on,obsolete=deny,resourcecontrol=deny",
        "-daemonize",
        "-pidfile",
        f"{directory / PID_FILE}",
    ]


def node(disk: Disk) -> dict[str, Any]:
    """The disk's file, for `-blockdev` and `blockdev-add`."""
    # Bypassing the host's page cache saves memory.
    cache = {"direct": can_do_direct_io(disk.path), "no-flush": False}
    file = {"driver": "file", "filename": disk.path, "cache": cache, "discard": "unmap"}
    return {"driver": "raw", "node-name": node_name(disk.slot), "cache": cache, "discard": "unmap", "file": file}


def device(disk: Disk) -> dict[str, Any]:
    """The disk as the guest sees it, for `-device` and `device_add`."""
    values: dict[str, Any] = {
        "driver": "virtio-blk-pci",
        "id": device_id(disk.volume_id),
        "drive": node_name(disk.slot),
        "serial": disk.volume_id.replace("-", "")[:SERIAL_LENGTH],
        "bus": "pci.0",
        "addr": f"{_FIRST_DISK + disk.slot:#x}",
    }
    return values | ({"bootindex": 1} if disk.boot else {})


def node_name(slot: int) -> str:
    return f"disk{slot}"


def device_id(volume_id: str) -> str:
    return f"vol-{volume_id}"


def can_do_direct_io(path: str) -> bool:
    """Whether the file's file system supports O_DIRECT."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def _plain(text: str) -> str:
    """Escapes commas for QEMU's option parser."""
    return text.replace(",", ",,")
