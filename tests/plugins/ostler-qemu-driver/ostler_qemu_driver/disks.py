"""Disks of a VM that executes: seen, attached, detached, grown."""

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
LET_GO_S = 10.0
_PREFIX = f"/machine/peripheral/{device_id('')}"


@dataclass(frozen=True)
class LiveDisk:
    """A disk that the guest sees now."""

    disk: Disk
    size_bytes: int


def live_disks(machine: Machine) -> list[LiveDisk]:
    """By slot."""
    found = [_live_disk(entry) for entry in machine.execute("query-block") if entry.get("inserted")]
    return sorted((disk for disk in found if disk), key=lambda live: live.disk.slot)


def attach(machine: Machine, disk: Disk) -> None:
    """Attached in its slot already is a success. Raises as `definition.has` does."""
    if has(tuple(live.disk for live in live_disks(machine)), disk, machine.vm_id):
        return
    what = f"attaching volume {disk.volume_id} to VM {machine.vm_id}"
    _forget_node(machine, disk.slot)  # of an earlier try that did not come to its end
    machine.execute("blockdev-add", node(disk), what)
    try:
        # The guest boots from what it had when it started.
        machine.execute("device_add", {key: value for key, value in device(disk).items() if key != "bootindex"}, what)
    except BaseException:
        _forget_node(machine, disk.slot)
        raise


def detach(machine: Machine, volume_id: str, slot: int | None, timeout_s: float, progress: Progress) -> None:
    """Waits until the guest has let go. slot: where the definition has it, for what an earlier try left."""
    device_name = device_id(volume_id)
    disk = _find(machine, volume_id)
    if disk is not None:
        slot = disk.disk.slot
        deadline = time.monotonic() + timeout_s
        machine.refused.discard(device_name)
        try:
            machine.execute("device_del", {"id": device_name})
        except OstlerError as error:
            # The guest was asked earlier and has yet to answer, or has let go since we looked.
            if "in the process of unplug" not in error.message and "not found" not in error.message:
                raise
        progress.report("waiting for the guest to let go of the disk")
        while _find(machine, volume_id) is not None:
            progress.check()
            if device_name in machine.refused:
                raise FailedPreconditionError(
                    f"the guest of VM {machine.vm_id} keeps volume {volume_id} (unmount it in the guest)",
                    "DETACH_REFUSED",
                )
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"the guest of VM {machine.vm_id} has not let go of volume {volume_id} within {timeout_s:.0f} s "
                    "(unmount it in the guest, then try again, or stop the VM)",
                    "DETACH_TIMEOUT",
                )
            time.sleep(POLL_INTERVAL_S)
    if slot is not None:
        _forget_node(machine, slot)


def grow(machine: Machine, volume_id: str, size_bytes: int) -> None:
    """Raises NotFoundError VOLUME_NOT_ATTACHED, FailedPreconditionError VOLUME_SHRINK."""
    live = _find(machine, volume_id)
    if live is None:
        raise NotFoundError(f"volume {volume_id} is not attached to VM {machine.vm_id}", "VOLUME_NOT_ATTACHED")
    if size_bytes < live.size_bytes:
        raise FailedPreconditionError(
            f"volume {volume_id} has {live.size_bytes} bytes already (a volume cannot shrink)", "VOLUME_SHRINK"
        )
    if size_bytes > live.size_bytes:
        arguments = {"node-name": node_name(live.disk.slot), "size": size_bytes}
        machine.execute("block_resize", arguments, f"growing volume {volume_id} of VM {machine.vm_id}")


def _find(machine: Machine, volume_id: str) -> LiveDisk | None:
    return next((live for live in live_disks(machine) if live.disk.volume_id == volume_id), None)


def _forget_node(machine: Machine, slot: int) -> None:
    """Closes a file that no device uses; a device that just went lets go of it a moment later."""
    name = node_name(slot)
    deadline = time.monotonic() + LET_GO_S
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
