"""Lists, attaches, detaches and grows the disks of a running VM."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ostler_agent.hypervisors.base import Progress
from ostler_common.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    OstlerError,
)

from ostler_qemu_driver.command import device, device_id, node, node_name
from ostler_qemu_driver.definition import Disk, has
from ostler_qemu_driver.machine import Machine

POLL_INTERVAL_S = 0.2
RELEASE_TIMEOUT_S = 10.0
_PREFIX = f"/machine/peripheral/{device_id('')}"


@dataclass(frozen=True)
class LiveDisk:
    """A disk that the guest currently has."""

    disk: Disk
    size_bytes: int


def live_disks(machine: Machine) -> list[LiveDisk]:
    """The disks of a running VM, ordered by slot."""
    found = [_live_disk(entry) for entry in machine.execute("query-block") if entry.get("inserted")]
    return sorted((disk for disk in found if disk), key=lambda live: live.disk.slot)


def attach(machine: Machine, disk: Disk) -> None:
    """Attaches a disk. Idempotent. Raises what `definition.has` raises."""
    if has(tuple(live.disk for live in live_disks(machine)), disk, machine.vm_id):
        return
    what = f"attaching volume {disk.volume_id} to VM {machine.vm_id}"
    _close_node(machine, disk.slot)  # left by an earlier attempt
    machine.execute("blockdev-add", node(disk), what)
    try:
        # bootindex cannot be hot-plugged.
        machine.execute("device_add", {key: value for key, value in device(disk).items() if key != "bootindex"}, what)
    except BaseException:
        _close_node(machine, disk.slot)
        raise


def detach(machine: Machine, volume_id: str, slot: int | None, timeout_s: float, progress: Progress) -> None:
    """Detaches a disk and waits until the guest has released it. slot: its slot in the definition, to clean up."""
    device_name = device_id(volume_id)
    disk = _find(machine, volume_id)
    if disk is not None:
        slot = disk.disk.slot
        deadline = time.monotonic() + timeout_s
        machine.refused.discard(device_name)
        try:
            machine.execute("device_del", {"id": device_name})
        except OstlerError as error:
            # An earlier request is pending in the guest, or the guest has just released the disk.
            if "in the process of unplug" not in error.message and "not found" not in error.message:
                raise
        progress.report("waiting for the guest to release the disk")
        while _find(machine, volume_id) is not None:
            progress.check()
            if device_name in machine.refused:
                raise FailedPreconditionError(
                    f"the guest of VM {machine.vm_id} refuses to release volume {volume_id} (unmount it in the guest)",
                    "DETACH_REFUSED",
                )
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"the guest of VM {machine.vm_id} did not release volume {volume_id} within {timeout_s:.0f} s "
                    "(unmount it in the guest, then try again, or stop the VM)",
                    "DETACH_TIMEOUT",
                )
            time.sleep(POLL_INTERVAL_S)
    if slot is not None:
        _close_node(machine, slot)


def grow(machine: Machine, volume_id: str, size_bytes: int) -> None:
    """Raises NotFoundError VOLUME_NOT_ATTACHED, FailedPreconditionError VOLUME_SHRINK."""
    live = _find(machine, volume_id)
    if live is None:
        raise NotFoundError(f"volume {volume_id} is not attached to VM {machine.vm_id}", "VOLUME_NOT_ATTACHED")
    if size_bytes < live.size_bytes:
        raise FailedPreconditionError(
            f"volume {volume_id} already has {live.size_bytes} bytes (a volume cannot shrink)", "VOLUME_SHRINK"
        )
    if size_bytes > live.size_bytes:
        arguments = {"node-name": node_name(live.disk.slot), "size": size_bytes}
        machine.execute("block_resize", arguments, f"growing volume {volume_id} of VM {machine.vm_id}")


def _find(machine: Machine, volume_id: str) -> LiveDisk | None:
    return next((live for live in live_disks(machine) if live.disk.volume_id == volume_id), None)


def _close_node(machine: Machine, slot: int) -> None:
    """Closes an unused file. A device that was just removed releases it a moment later."""
    name = node_name(slot)
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    while any(node["node-name"] == name for node in machine.execute("query-named-block-nodes", {"flat": True})):
        try:
            machine.execute("blockdev-del", {"node-name": name})
        except OstlerError as error:
            if "is in use" not in error.message or time.monotonic() > deadline:
                raise
            time.sleep(POLL_INTERVAL_S)


def _live_disk(entry: dict[str, Any]) -> LiveDisk | None:
    volume_id = entry.get("qdev", "").removeprefix(_PREFIX).partition("/")[0]
    inserted = entry["inserted"]
    slot = str(inserted.get("node-name", "")).removeprefix(node_name(0)[:-1])
    if not volume_id or not slot.isdigit():
        return None
    image = inserted["image"]
    return LiveDisk(Disk(volume_id, image["filename"], int(slot)), image["virtual-size"])
