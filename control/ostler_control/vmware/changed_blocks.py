"""Snapshots of a running VM, and what changed on its disks from one to the next (changed block tracking).

With the only snapshot of a VM in place, each disk's base file stays as it is while the guest goes on writing into a
delta; removing the snapshot merges the delta. See VMware's "Virtual Disk Development Kit Programming Guide", Low-Level
Backup Procedures.
"""

from __future__ import annotations

from collections.abc import Iterator

from ostler_common.errors import FailedPreconditionError, NotFoundError, OstlerError
from pyVmomi import vim

from ostler_control.vmware.areas import Area
from ostler_control.vmware.clone import clone_name, wait_for_tasks
from ostler_control.vmware.connection import Connection
from ostler_control.vmware.inventory import Disk
from ostler_control.vmware.properties import Managed, read_one
from ostler_control.vmware.read_inventory import disks_of
from ostler_control.vmware.tasks import Check, wait

# Merging a large delta on a slow datastore takes long.
SNAPSHOT_TIMEOUT_S = 6 * 3600.0
ALLOCATED = "*"
_NOTE = "Made by Ostler to import the VM; it is deleted when the copy is complete."
_MAX_QUERIES = 100_000
# What a server answers to a change id that it does not know (tracking was reset, the disk was moved or resized), and
# on a datastore that does not know what is allocated.
_LOST = ("VCENTER_FILE_FAULT",)
_LOST_FAULTS = ("InvalidArgument",)


class TrackingLostError(Exception):
    """The server cannot tell what changed: the whole disk has to be read."""


def set_tracking(connection: Connection, ref: str, check: Check, *, enabled: bool) -> None:
    """Turns a VM's changed block tracking on or off. It takes effect with the next snapshot that is made or removed."""
    spec = vim.vm.ConfigSpec(changeTrackingEnabled=enabled)
    task = connection.call(lambda: vim.VirtualMachine(ref, connection.stub).ReconfigVM_Task(spec))
    wait(connection, task, SNAPSHOT_TIMEOUT_S, check)


def create_snapshot(connection: Connection, ref: str, operation_id: str, check: Check) -> str:
    """Makes the operation's snapshot, without memory. Returns its managed object id."""
    wait_for_tasks(connection, ref, check)
    vm = vim.VirtualMachine(ref, connection.stub)
    task = connection.call(lambda: vm.CreateSnapshot_Task(clone_name(operation_id), _NOTE, False, False))
    return str(wait(connection, task, SNAPSHOT_TIMEOUT_S, check)._moId)


def delete_snapshots(connection: Connection, ref: str, operation_id: str, check: Check) -> None:
    """Removes the operation's snapshots, also one that a dead process was making; none is a success, and no VM, too."""
    try:
        wait_for_tasks(connection, ref, check)
        for snapshot in list_snapshots(connection, ref, operation_id):
            found = vim.vm.Snapshot(snapshot, connection.stub)
            task = connection.call(lambda found=found: found.RemoveSnapshot_Task(False))  # type: ignore[misc]
            wait(connection, task, SNAPSHOT_TIMEOUT_S, check)
    except NotFoundError:
        return


def list_snapshots(connection: Connection, ref: str, operation_id: str = "") -> list[str]:
    """Managed object ids of a VM's snapshots, oldest first. operation_id: only those that this operation made."""
    tree = read_one(connection, vim.VirtualMachine, ref, ("snapshot",)).get("snapshot")
    name = clone_name(operation_id) if operation_id else ""
    return [str(item.snapshot._moId) for item in _walk(tree) if not name or item.name == name]


def _walk(tree: Managed) -> Iterator[Managed]:
    left = list(tree.rootSnapshotList) if tree is not None else []
    while left:
        item = left.pop(0)
        yield item
        left.extend(item.childSnapshotList)


def snapshot_disks(connection: Connection, snapshot: str) -> tuple[Disk, ...]:
    """The disks as the snapshot has them, with their change ids."""
    hardware = read_one(connection, vim.vm.Snapshot, snapshot, ("config.hardware",)).get("config.hardware")
    return tuple(disks_of(list(hardware.device)))


def changed_areas(connection: Connection, ref: str, snapshot: str, disk: Disk, change_id: str) -> list[Area]:
    """What changed on a disk between a change id and the snapshot; with ALLOCATED, what is in use at all.

    Raises TrackingLostError; FailedPreconditionError VCENTER_FAULT when the answers do not end.
    """
    vm = vim.VirtualMachine(ref, connection.stub)
    at = vim.vm.Snapshot(snapshot, connection.stub)
    areas: list[Area] = []
    offset = 0
    for _ in range(_MAX_QUERIES):
        if offset >= disk.capacity_bytes:
            return areas
        try:
            info = connection.call(
                lambda offset=offset: vm.QueryChangedDiskAreas(at, disk.key, offset, change_id),  # type: ignore[misc]
                repeatable=True,
            )
        except OstlerError as error:
            if error.reason in _LOST or error.metadata.get("fault") in _LOST_FAULTS:
                raise TrackingLostError(error.message) from None
            raise
        areas.extend(Area(int(item.start), int(item.length)) for item in info.changedArea)
        if int(info.startOffset) + int(info.length) <= offset:
            break
        offset = int(info.startOffset) + int(info.length)
    raise FailedPreconditionError(
        f"{connection.server.name} does not come to an end of what changed on {disk.label}", "VCENTER_FAULT"
    )
